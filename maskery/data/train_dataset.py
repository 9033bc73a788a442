"""Training samples. The sample at global position i is a function of (seed, i) alone: resuming needs no replay.

n training images, b images of a batch (one process's part of an optimiser step), C channels, h x w pixels of a view
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augment import Augment
from .crops import UNIFORMS, RandomCrop, ViewBox
from .decode.picture import Picture
from .images import Images, Skips
from .order import positions
from .resample import ViewFormat
from .sources.source import Source
from .transfer import TransferBuffers
from .views import CPU, RegionBuffer, ViewStack

PIECE = 128  # most images that a worker hands over at a time: 40 MB of photographs


@dataclass(frozen=True)
class SamplingPlan:
    """What all samples depend on, and which of them this process draws: one global batch a step, in equal parts."""

    size: tuple[int, int]  # of the views
    seed: int
    batch: int  # images of one optimiser step, over all processes
    rank: int = 0
    ranks: int = 1
    device: torch.device = CPU  # that the views are for

    def __post_init__(self) -> None:
        if self.batch % self.ranks:
            raise ValueError(
                f"batch size {self.batch} cannot be shared equally by {self.ranks} processes: it has to be a multiple "
                f"of {self.ranks}"
            )

    @property
    def per_process_batch(self) -> int:
        return self.batch // self.ranks

    @property
    def pieces(self) -> int:
        """Equal pieces that workers make of this process's part of a step."""
        return -(-self.per_process_batch // PIECE)

    def start(self, step: int) -> int:
        """Return the first global position of this process's part of a step."""
        return step * self.batch + self.rank * self.per_process_batch

    def span(self, k: int) -> tuple[int, int]:
        """Return the first global position of piece k, and how many there are."""
        step, piece = divmod(k, self.pieces)
        first, end = (p * self.per_process_batch // self.pieces for p in (piece, piece + 1))
        return self.start(step) + first, end - first


@dataclass(frozen=True)
class SampledImage:
    """A decoded image and the parts of it that its views show."""

    picture: Picture
    views: Sequence[ViewBox]
    mask: np.ndarray | None = None  # [h', w'] class numbers of the view's pixels, not flipped


@dataclass(frozen=True)
class ViewSampler(abc.ABC):
    """Samples what the views show of an image. Subclasses are final."""

    fill: tuple[float, ...] | None = field(default=None, kw_only=True)  # [C] colour in [0, 1] of uncovered pixels

    @property
    def views(self) -> int:
        """Views of each image."""
        return 1

    @abc.abstractmethod
    def sample(self, images: Images, i: int, size: tuple[int, int], u: np.ndarray) -> SampledImage:
        """Sample image i by random numbers [views, UNIFORMS] in [0, 1). Raises `Unreadable`."""


@dataclass(frozen=True)
class Sample:
    """What a target may depend on."""

    index: int  # of the image in its source
    epoch: int
    views: Sequence[ViewBox]
    mask: np.ndarray | None


Target = Callable[[Sequence[Sample]], Any]  # the samples of a piece -> their "label"


class TrainDataset(Dataset[dict[str, Any]]):
    """Item k: the k-th piece of this process's batches, {"views": one batch a view, "skipped": Skips, "label": target}.

    A piece is this process's part of a step, or one of the equal pieces it is cut into, so that neither waiting for the
    first batch nor memory grows with the batch. On a CPU its views are a tensor [b, C, h, w] of uint8 or uint16. For a
    GPU they are `Regions`, which it resizes faster than the workers can; but tensors where images do not fill their
    views, and where `augment` needs resized crops. An image that cannot be read is replaced by the next one that can.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        plan: SamplingPlan,
        sampler: ViewSampler,
        target: Target | None = None,
        augment: Augment | None = None,
    ):
        self.images, self.indices, self.plan = images, indices, plan
        self.sampler, self.target, self.augment = sampler, target, augment
        if augment:
            augment.check(images.channels, images.bits)
        self.format = ViewFormat(plan.size, images.channels, images.bits)
        self.fill = None if sampler.fill is None else images.coloured(sampler.fill)
        self.resized_on_gpu = plan.device.type == "cuda" and augment is None and self.fill is None
        self.buffers: TransferBuffers | None = None  # where workers leave regions instead of sending them
        blocks = images.source.blocks
        self.blocks = None if blocks is None else blocks[indices].tobytes()

    def __getitem__(self, k: int) -> dict[str, Any]:
        (start, count), n, seed = self.plan.span(k), len(self.indices), self.plan.seed
        order = positions(n, seed, start, count, self.blocks)
        self.images.source.expect(self.indices[order])
        numbers = np.stack([uniforms(seed, v, start, count) for v in range(self.sampler.views)], axis=1)
        given = self.buffers.of(k).unbind() if self.buffers else [None] * self.sampler.views
        on_gpu, fill = self.resized_on_gpu, self.fill
        batches = [
            RegionBuffer(self.format, count, m) if on_gpu else ViewStack(self.format, count, fill) for m in given
        ]
        samples: list[Sample] = []
        skipped: Skips = []
        for j, (at, u) in enumerate(zip(order.tolist(), numbers, strict=True)):
            i, sampled = self._next_readable(at, u, skipped)
            for batch, view in zip(batches, sampled.views, strict=True):
                batch.add(*view.region(sampled.picture), view)
            if self.target:
                samples.append(Sample(i, (start + j) // n, sampled.views, sampled.mask))
        item = {"views": [batch.done() for batch in batches], "skipped": skipped}
        if self.augment:
            for views, u in zip(item["views"], numbers.swapaxes(0, 1), strict=True):
                augment_views(views, self.augment, u[:, -1])
        return item | ({"label": self.target(samples)} if self.target else {})

    def _next_readable(self, at: int, u: np.ndarray, skipped: Skips) -> tuple[int, SampledImage]:
        """Sample the image at `at`, or the next one that can be read."""
        n, source = len(self.indices), self.images.source
        candidates = (int(self.indices[(at + step) % n]) for step in range(n))

        def sample(i: int) -> SampledImage:
            return self.sampler.sample(self.images, i, self.plan.size, u)

        for i, sampled in self.images.readable(candidates, sample, skipped):
            return i, sampled
        raise ValueError(f"{source.where}: none of the {n} training images can be read ({skipped[-1][1]})")


def uniforms(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """Random numbers of these positions, [count, UNIFORMS] in [0, 1): the same however they are batched.

    Every view of a sample has a `stream` of its own. Philox counts in blocks of four numbers.
    """
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=start * (UNIFORMS // 4))
    return np.random.Generator(bits).random((count, UNIFORMS))


def augment_views(views: Tensor, augment: Augment, u: np.ndarray) -> None:
    """Augment views [b, C, h, w] in place, by random numbers [b] in [0, 1)."""
    for view, key in zip(views, (u * 2**53).astype(np.int64).tolist(), strict=True):  # all bits that they have
        view.copy_(torch.from_numpy(augment(view.permute(1, 2, 0).numpy(), key)).permute(2, 0, 1))


@dataclass(frozen=True)
class RandomCrops(ViewSampler):
    """Views of images alone: each a random crop, independent of the others."""

    crops: Sequence[RandomCrop]

    @property
    def views(self) -> int:
        return len(self.crops)

    def sample(self, images: Images, i: int, size: tuple[int, int], u: np.ndarray) -> SampledImage:
        image = images.open(i)
        views = [crop.sample(image.height, image.width, size, v) for crop, v in zip(self.crops, u, strict=True)]
        return SampledImage(image.at(max(view.detail for view in views)), views)


def class_labels(source: Source) -> Target:
    """Target: class numbers [b] int64, or [b, M] float32, 0 and 1, where images have several labels."""
    labels = source.labels if source.labels is not None else source.multi_hot
    if labels is None:
        raise ValueError(f"{source.where}: images without labels: {'; '.join(source.notes)}")
    return partial(_stack_labels, labels)


def _stack_labels(labels: np.ndarray, samples: Sequence[Sample]) -> Tensor:
    label = torch.from_numpy(labels[[sample.index for sample in samples]])
    return label if label.dtype == torch.int64 else label.float()

"""Images with masks: random scales and crops for training, images as they are for measuring.

b images, C channels, h x w pixels of the network's input, H x W of an image
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .crops import EvalCrop, ViewBox, check_scale, scaled_crop
from .decode.image import Encoded
from .decode.picture import Picture
from .images import Images
from .masks import VOID, LabelMap, mask_of, nearest
from .sources.source import Source
from .train_dataset import Sample, SampledImage, Target, ViewSampler

TRIES = 10  # as mmsegmentation's RandomCrop: so many crops until no class covers too much, then the last


@dataclass(frozen=True)
class RandomScaleCrop:
    """A random scale, a random crop of the network's size, a flip: ADE20K's usual augmentation (mmsegmentation).

    At scale 1 the short side is as long as the network's: 512 pixels for crops of 512. What a small image leaves of the
    view is filled with the mean colour, and its mask with void.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75  # of a crop that one class may cover; 1: crops are not drawn again
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"--settings.cat-max-ratio is {self.cat_max_ratio}: a fraction above 0, at most 1")

    def candidates(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> Iterator[ViewBox]:
        """Yield the crops of an image to choose from, by `UNIFORMS` numbers; they differ in their place alone."""
        numbers: list[float] = u.tolist()
        factor = min(size) / min(height, width) * (self.scale[0] + numbers[0] * (self.scale[1] - self.scale[0]))
        for corner in zip(numbers[2 : 2 + TRIES], numbers[2 + TRIES : 2 + 2 * TRIES], strict=True):
            yield scaled_crop((height, width), factor, size, corner, numbers[1] < self.flip)

    def sample(self, mask: np.ndarray, size: tuple[int, int], u: np.ndarray) -> tuple[ViewBox, np.ndarray]:
        """Crop an image with this mask [H, W]: the view and its mask [h', w'], not flipped."""
        view, cropped = None, mask
        for view in self.candidates(mask.shape[0], mask.shape[1], size, u):
            cropped = nearest(mask, view.box, view.size)
            counts = np.bincount(cropped[cropped != VOID].astype(np.int64))
            if np.count_nonzero(counts) > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
            if self.cat_max_ratio == 1:
                break
        assert view
        return view, cropped


@dataclass(frozen=True)
class MaskSampler(ViewSampler):
    """One view of each image, and its mask."""

    crop: RandomScaleCrop
    label_map: LabelMap

    def sample(self, images: Images, i: int, size: tuple[int, int], u: np.ndarray) -> SampledImage:
        image = images.open(i)
        mask = mask_of(images.source, i, (image.height, image.width), self.label_map)
        view, cropped = self.crop.sample(mask, size, u[0])
        return SampledImage(image.at(view.detail), [view], cropped)


def mask_targets(size: tuple[int, int]) -> Target:
    """Target: class numbers [b, h, w] int16, VOID where there is none."""
    return partial(_stack_masks, size)


def _stack_masks(size: tuple[int, int], samples: Sequence[Sample]) -> Tensor:
    label = torch.full((len(samples), *size), VOID, dtype=torch.int16)
    for pixels, sample in zip(label, samples, strict=True):
        assert sample.mask is not None
        h, w = sample.mask.shape
        pixels[:h, :w] = torch.from_numpy(sample.mask[:, ::-1].copy() if sample.views[0].flip else sample.mask)
    return label


def full_mask(source: Source, label_map: LabelMap, i: int, image: Encoded | Picture) -> Tensor:
    """Target of an evaluation: the mask of image i as it is, [H, W] int16."""
    return torch.from_numpy(mask_of(source, i, (image.height, image.width), label_map))


@dataclass(frozen=True)
class CoveringImage(EvalCrop):
    """All of an image at its own aspect ratio, scaled until it just covers `size`."""

    stacked: ClassVar[bool] = False

    def __call__(self, height: int, width: int) -> ViewBox:
        return ViewBox((0.0, 0.0, width, height), covering_size(height, width, self.size))


def covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image scaled until it has at least `size`, and just that in one direction."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], math.floor(height * factor + 0.5)), max(size[1], math.floor(width * factor + 0.5))

"""Open somebody's images for a run: what is there, what is trained on, what is held out, what goes into memory."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..config import ImagesConfig
from ..distributed import World
from ..nn.vit import IMAGENET_MEAN, IMAGENET_STD
from .images import Images
from .sources.names import Names, raw
from .sources.source import Source, open_source, split_indices
from .survey import Survey, evenly, measure, survey


class Reporter(Protocol):
    """How opening speaks to people: sentences, and a bar (done, total) for what takes long."""

    def say(self, message: str) -> None: ...

    def bar(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]: ...


@dataclass(frozen=True)
class ImageData:
    images: Images
    train: np.ndarray  # [n] indices into images, sorted
    held_out: np.ndarray  # [m] never trained on
    config: ImagesConfig  # nothing is None any more but columns and workers
    unreadable: tuple[tuple[str, str], ...]  # (name, reason) of those found so far
    validation: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # to choose by, not trained on

    @property
    def labels(self) -> np.ndarray | None:
        return self.images.source.labels

    @property
    def multi_hot(self) -> np.ndarray | None:
        return self.images.source.multi_hot

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.source.classes

    def workers(self, processes: int = 1) -> int:
        """Loader processes: as the user said, else a process's share of the cores; none on a CPU with kept images."""
        if self.config.workers is not None:
            return self.config.workers
        if self.images.kept and not torch.cuda.is_available():
            return 0
        cores = (
            len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        )  # a scheduler gives some
        return max(1, min(16, cores // processes))

    def fingerprint(self) -> str:
        """The same when the same images, by name, are trained on in the same order."""
        names = self.images.source.names
        parts = list(names.all_raw()) if isinstance(names, Names) else [raw(name) for name in names]
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(self.train), 65536):
            digest.update(b"".join(parts[i] + b"\n" for i in self.train[start : start + 65536].tolist()))
        return digest.hexdigest()


def source_of(where: str, config: ImagesConfig, progress: Callable[[int], None] | None = None) -> Source:
    """The images at `where`, as the settings say they are to be read."""
    return open_source(
        where,
        image_column=config.image_column,
        label_column=config.label_column,
        split_column=config.split_column,
        mask_column=config.mask_column,
        labels=config.labels,
        masks=config.masks,
        objects=config.objects,
        questions=config.questions,
        train_json=config.train_json,
        val_json=config.val_json,
        test_json=config.test_json,
        remote_cache=config.cache,
        progress=progress,
    )


def open_data(
    where: str, config: ImagesConfig, size: tuple[int, int], report: Reporter, world: World | None = None
) -> ImageData:
    """Open, look at a sample, refuse what is mostly unreadable, decode into memory what fits.

    `size` (height, width) of the views in pixels. All processes of a `world` call this together.
    """
    with report.bar("looking for images") as tick:
        source = source_of(where, config, lambda found: tick(found, 0))
    train, held_out = split_indices(source, config.holdout)
    with report.bar("looking at images") as tick:
        looked = survey(source, pages=config.pages, progress=tick)
    for note in (*source.notes, *looked.lines()):
        report.say(note)
    unreadable = [(s.name, s.reason) for s in looked.skipped]
    refuse_unreadable(where, unreadable, looked.looked_at, config.unreadable)

    channels, bits = config.channels or looked.channels_suggested, config.bits or looked.bits_suggested
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != channels:
            raise ValueError(f"images.{name} has {len(values)} numbers, the images have {channels} channels")
    images = Images(source, channels=channels, bits=bits, pages=config.pages, min_side=2 * max(size))
    everything = np.concatenate([train, held_out])
    budget = min(config.memory * 1e9, _machine_memory() / 2)
    needed = _bytes(looked, len(everything), channels, bits, 2 * max(size))
    fits = needed < budget
    if world.any(fits) if world else fits:  # machines may differ, and all processes have to say something
        with report.bar("decoding into memory") as tick:
            images.keep(everything.tolist(), budget if fits else 0, tick, world)
        bad = images.unreadable()
        refuse_unreadable(where, bad, len(everything), config.unreadable)
        unreadable += bad
        if images.kept:
            report.say(
                f"all {len(everything) - len(bad):,} images are decoded once and kept in memory "
                f"({images.kept.nbytes / 1e9:.2f} GB)"
            )
        else:
            report.say(f"images are decoded each time they are seen: {images.not_kept}")
    elif config.memory:
        report.say(
            f"images are decoded each time they are seen: in memory they would take about {needed / 1e9:,.1f} GB, "
            f"images.memory and this machine allow {budget / 1e9:,.1f} GB"
        )

    if looked.heights[0] < size[0] or looked.widths[0] < size[1]:
        report.say(f"some images are smaller than {size[0]} x {size[1]} pixels and are enlarged")
    config = _normalisation(replace(config, channels=channels, bits=bits), source, train)
    return ImageData(images, train, held_out, config, tuple(unreadable))


def spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the indices, evenly spread over them."""
    return indices[evenly(len(indices), most)]


def refuse_unreadable(where: str, skipped: Sequence[tuple[str, str]], looked_at: int, allowed: float) -> None:
    """ValueError with the head of the list when more than the allowed share cannot be read."""
    if len(skipped) <= allowed * looked_at:
        return
    head = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    raise ValueError(
        f"{where}: {len(skipped)} of {looked_at} images cannot be read, more than the {allowed:.0%} that "
        f"--images.unreadable allows: {head}{more}"
    )


def _normalisation(config: ImagesConfig, source: Source, train: np.ndarray) -> ImagesConfig:
    """Mean and std: the user's, ImageNet's for ordinary colour photographs, else measured."""
    assert config.channels
    assert config.bits
    if config.mean is not None and config.std is not None:
        return config
    if config.channels == 3 and config.bits == 8:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        mean, std = measure(source, train, channels=config.channels, bits=config.bits, pages=config.pages)
        std = tuple(max(s, 1e-4) for s in std)  # a channel that is constant stays finite
    return replace(config, mean=config.mean or mean, std=config.std or std)


def _bytes(looked: Survey, n: int, channels: int, bits: int, min_side: int) -> float:
    """About what n decoded images need: by their median size, halved until just above `min_side`."""
    height, width = looked.heights[1], looked.widths[1]
    while min(height, width) >= 2 * min_side:
        height, width = height // 2, width // 2
    return n * height * width * channels * bits / 8


def _machine_memory() -> float:
    """Bytes of memory this machine has, or this container may use."""
    most = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        most = min(most, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return most

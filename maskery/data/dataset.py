"""Open images for a run: survey them, split them, decode into memory what fits."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..config import ImagesConfig
from ..distributed import World
from ..nn.vit import IMAGENET_MEAN, IMAGENET_STD
from ..terminal import Reporter
from .images import Images
from .sources.names import all_bytes
from .sources.open import open_source
from .sources.source import Source, split_indices
from .survey import Survey, evenly, mean_and_std, survey


@dataclass(frozen=True)
class ImageData:
    """The images of a run and how they are split: n to train on, m held out."""

    images: Images
    train: np.ndarray  # [n] indices into images, sorted
    held_out: np.ndarray  # [m] never trained on
    config: ImagesConfig  # nothing is None any more but columns and workers
    unreadable: tuple[tuple[str, str], ...]  # (name, reason) of those met so far
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
        """Loader processes: the configured number, else a process's part of the cores; none on a CPU with a cache."""
        if self.config.workers is not None:
            return self.config.workers
        if self.images.memory and not torch.cuda.is_available():
            return 0
        available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return max(1, min(16, available // processes))

    def fingerprint(self) -> str:
        """The same when the same images, by name, are trained on in the same order."""
        names = list(all_bytes(self.images.source.names))
        digest = hashlib.blake2b(digest_size=8)
        for start in range(0, len(self.train), 65536):
            digest.update(b"".join(names[i] + b"\n" for i in self.train[start : start + 65536].tolist()))
        return digest.hexdigest()


@dataclass(frozen=True)
class SurveyedSource:
    """A source and the survey of a sample of its images: opened once, handed on."""

    source: Source
    survey: Survey


def survey_source(where: str, config: ImagesConfig, report: Reporter) -> SurveyedSource:
    """Open the images at `where` and look at a sample of them."""
    source = open_source(where, config, report)
    with report.bar("looking at images") as tick:
        return SurveyedSource(source, survey(source, pages=config.pages, progress=tick))


def open_data(
    where: str, config: ImagesConfig, size: tuple[int, int], report: Reporter, world: World | None = None
) -> ImageData:
    """Open the images at `where` and load them: `survey_source`, then `load_data`."""
    return load_data(survey_source(where, config, report), config, size, report, world)


def load_data(
    surveyed: SurveyedSource, config: ImagesConfig, size: tuple[int, int], report: Reporter, world: World | None = None
) -> ImageData:
    """Check and split a surveyed source, complete `config` from its survey, decode into memory what fits.

    `size` (height, width) of the views in pixels. All processes of a `world` call this together. ValueError when too
    many images cannot be read.
    """
    source, survey = surveyed.source, surveyed.survey
    train, held_out = split_indices(source, config.holdout)
    for note in (*source.notes, *survey.lines()):
        report.say(note)
    check_unreadable(source.where, survey.unreadable, survey.sampled, config.unreadable)
    channels, bits = config.channels or survey.channels_suggested, config.bits or survey.bits_suggested
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != channels:
            raise ValueError(f"images.{name} has {len(values)} numbers, the images have {channels} channels")
    config = replace(config, channels=channels, bits=bits)
    images = Images(source, channels=channels, bits=bits, pages=config.pages, min_side=2 * max(size))
    unreadable = list(survey.unreadable)
    unreadable += _fill_memory(images, np.concatenate([train, held_out]), survey, config, report, world)
    if survey.heights[0] < size[0] or survey.widths[0] < size[1]:
        report.say(f"some images are smaller than {size[0]} x {size[1]} pixels and are enlarged")
    return ImageData(images, train, held_out, _normalisation(config, source, train), tuple(unreadable))


def _fill_memory(
    images: Images, indices: np.ndarray, survey: Survey, config: ImagesConfig, report: Reporter, world: World | None
) -> list[tuple[str, str]]:
    """Decode into memory all of `indices` if they fit, and say so; (name, reason) of those that cannot be read."""
    budget = min(config.memory * 1e9, _machine_memory() / 2)
    needed = _decoded_bytes(survey, images) * len(indices)
    fits = needed < budget
    if world.any(fits) if world else fits:  # machines may differ, and all processes have to take part
        with report.bar("decoding into memory") as tick:
            images.keep_in_memory(indices.tolist(), budget if fits else 0, tick, world)
        unreadable = images.unreadable()
        check_unreadable(images.source.where, unreadable, len(indices), config.unreadable)
        if images.memory:
            report.say(
                f"all {len(indices) - len(unreadable):,} images are decoded once and kept in memory "
                f"({images.memory.nbytes / 1e9:.2f} GB)"
            )
        else:
            report.say(f"images are decoded each time they are seen: {images.not_in_memory}")
        return unreadable
    if config.memory:
        report.say(
            f"images are decoded each time they are seen: in memory they would take about {needed / 1e9:,.1f} GB, "
            f"images.memory and this machine allow {budget / 1e9:,.1f} GB"
        )
    return []


def spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the indices, evenly spread over them."""
    return indices[evenly(len(indices), most)]


def check_unreadable(where: str, unreadable: Sequence[tuple[str, str]], n: int, allowed: float) -> None:
    """ValueError with the head of the list when more than the allowed fraction of n images cannot be read."""
    if len(unreadable) <= allowed * n:
        return
    head = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:5])
    more = f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    raise ValueError(
        f"{where}: {len(unreadable)} of {n} images cannot be read, more than the {allowed:.0%} that "
        f"--images.unreadable allows: {head}{more}"
    )


def _normalisation(config: ImagesConfig, source: Source, train: np.ndarray) -> ImagesConfig:
    """Mean and std: the configured ones, ImageNet's for ordinary colour photographs, else measured."""
    assert config.channels
    assert config.bits
    if config.mean is not None and config.std is not None:
        return config
    if config.channels == 3 and config.bits == 8:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        mean, std = mean_and_std(source, train, channels=config.channels, bits=config.bits, pages=config.pages)
        std = tuple(max(s, 1e-4) for s in std)  # a channel that is constant stays finite
    return replace(config, mean=config.mean or mean, std=config.std or std)


def _decoded_bytes(survey: Survey, images: Images) -> float:
    """About what one decoded image needs: by the median size, halved until just above `min_side`."""
    height, width = survey.heights[1], survey.widths[1]
    while min(height, width) >= 2 * images.min_side:
        height, width = height // 2, width // 2
    return height * width * images.channels * images.bits / 8


def _machine_memory() -> float:
    """Bytes of memory this machine has, or this container may use."""
    most = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        most = min(most, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return most

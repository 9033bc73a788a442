"""Encoders an evaluation compares: the trained run, its initialisation, a random one, others.

WHERE names the one that is evaluated; `--beside` names the others: `random`, `start` (what the run at WHERE started
from), or weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData, open_data
from ..data.images import Images
from ..nn.vit import ViT, ViTConfig
from ..runs.directory import is_run, open_run
from ..terminal import Reporter
from ..weights.load import image_config, load_encoder
from ..weights.locate import parse_where
from .results import END, RANDOM, START


@dataclass(frozen=True)
class Candidate:
    label: str  # RANDOM, START, END, or where the weights are
    where: Path | None  # None: random weights, others for every seed

    @property
    def folder(self) -> str:
        """Directory name for the candidate's own runs."""
        short = {RANDOM: "random", START: "start", END: "end"}
        return short.get(self.label) or "".join(c if c.isalnum() or c in "-_." else "-" for c in self.label).strip("-.")

    def load(self, like: ViTConfig, seed: int) -> ViT:
        """Load the encoder in eval mode on the CPU, or draw random weights for a network like `like`."""
        if self.where is not None:
            return load_encoder(self.where)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return ViT(like).eval()


def candidates_of(where: Path, beside: Sequence[str]) -> tuple[Candidate, ...]:
    """List WHERE and what `--beside` names, random weights and initialisation first.

    A run without `init` started from random weights. Weights inside a run (a checkpoint) are not called the run's end.
    ValueError when `start` is asked of something that is no run, and for the same weights twice.
    """
    place = parse_where(where).path
    trained = Candidate(END if (place / "checkpoints").is_dir() and is_run(place) else str(where), where)
    listed = [trained, *(_candidate(word, where, place) for word in beside)]
    before = [candidate for label in (RANDOM, START) for candidate in listed if candidate.label == label]
    unique = tuple(dict.fromkeys([*before, *listed]))
    folders = [candidate.folder for candidate in unique]
    repeated = [candidate.label for candidate in unique if folders.count(candidate.folder) > 1]
    repeated += [word for word in beside if Path(word) == where]
    if repeated:
        raise ValueError(f"--beside names the same twice: {', '.join(repeated)}")
    return unique


def _candidate(word: str, where: Path, place: Path) -> Candidate:
    """Read one word of `--beside`."""
    if word != "start":
        return Candidate(RANDOM, None) if word == "random" else Candidate(word, Path(word))
    if not is_run(place):
        raise ValueError(f"--beside start: {where} is not a run, so what it started from is not known")
    init = open_run(place).run.init
    return Candidate(START, Path(init)) if init else Candidate(RANDOM, None)


def _trained_on(encoder: ViT, where: Path, images: ImagesConfig) -> ImagesConfig:
    """Decode as for the training of the encoder from `where`; as `images` say where that is not known."""
    config, trained = encoder.config, image_config(where) or images
    images = replace(images, channels=config.channels, mean=config.mean, std=config.std)
    return replace(images, bits=trained.bits or images.bits, pages=trained.pages)


def open_images_for(encoder: ViT, where: Path, data: str, images: ImagesConfig, report: Reporter) -> ImageData:
    """Open images as the encoder from `where` was trained on them, each to be decoded once."""
    trained = _trained_on(encoder, where, images)
    config = replace(trained, bits=images.bits or trained.bits, memory=0)
    return open_data(data, config, encoder.config.image_size, report)


def reopen_for(encoder: ViT, where: Path, opened: ImageData) -> ImageData:
    """Decode the same images as the encoder from another place was trained on them."""
    return reopen(opened, _trained_on(encoder, where, opened.config), encoder.config.image_size)


def reopen(opened: ImageData, config: ImagesConfig, size: tuple[int, int]) -> ImageData:
    """Decode the same images in another way, for a network's input `size`."""
    assert config.channels
    assert config.bits
    images = Images(
        opened.images.source, channels=config.channels, bits=config.bits, pages=config.pages, min_side=2 * max(size)
    )
    return replace(opened, images=images, config=config)

"""What stands beside what in an evaluation: the run's end, what it started from, random weights, any others.

WHERE is what is evaluated; `--beside` names the others: random, start (what the run at WHERE began with), or weights as
`places.py` reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData, open_data
from ..data.images import Images
from ..nn.vit import ViT, ViTConfig
from ..runs.directory import is_run, run_of
from ..terminal import Reporter
from ..weights.load import images_of, load_encoder
from ..weights.locate import asked_for
from .results import END, RANDOM, START


@dataclass(frozen=True)
class Side:
    label: str  # RANDOM, START, END, or the place
    where: Path | None  # None: random weights, another draw for every seed

    @property
    def folder(self) -> str:
        """A name for what belongs to this side."""
        short = {RANDOM: "random", START: "start", END: "end"}
        return short.get(self.label) or "".join(c if c.isalnum() or c in "-_." else "-" for c in self.label).strip("-.")


def sides(where: Path, beside: Sequence[str]) -> tuple[Side, ...]:
    """WHERE and what it is to be compared with, what came before first. ValueError: start of what is no run, twice.

    A run that started from nothing started from random weights. A checkpoint is not called the run's end.
    """
    place = Path(asked_for(str(where))[0])
    found = [Side(END if (place / "checkpoints").is_dir() and is_run(place) else str(where), where)]
    for word in beside:
        if word == "start":
            if not is_run(place):
                raise ValueError(f"--beside start: {where} is no run, so nobody knows what it started from")
            began = run_of(place).init
            found.append(Side(START, Path(began)) if began else Side(RANDOM, None))
        else:
            found.append(Side(RANDOM, None) if word == "random" else Side(word, Path(word)))
    order = [side for label in (RANDOM, START) for side in found if side.label == label]
    kept = list(dict.fromkeys([*order, *found]))
    folders = [side.folder for side in kept]
    alike = [side.label for side in kept if folders.count(side.folder) > 1]
    alike += [word for word in beside if Path(word) == where]
    if alike:
        raise ValueError(f"--beside names the same twice: {', '.join(alike)}")
    return tuple(kept)


def encoder_of(side: Side, like: ViTConfig, seed: int) -> ViT:
    """The encoder of a side in eval mode, on the CPU; `like` says what network random weights are for."""
    if side.where is not None:
        return load_encoder(side.where)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ViT(like).eval()


def open_for(encoder: ViT, where: Path, data: str, images: ImagesConfig, report: Reporter) -> ImageData:
    """Images as the encoder from `where` wants them, each to be decoded once."""
    config, trained = encoder.config, images_of(where)
    asked = replace(images, channels=config.channels, mean=config.mean, std=config.std, memory=0)
    if trained:
        asked = replace(asked, bits=asked.bits or trained.bits, pages=trained.pages)
    return open_data(data, asked, config.image_size, report)


def seen_by(encoder: ViT, where: Path, opened: ImageData) -> ImageData:
    """The same images as the encoder from another place wants them."""
    config, trained = encoder.config, images_of(where)
    asked = replace(opened.config, channels=config.channels, mean=config.mean, std=config.std)
    if trained:
        asked = replace(asked, bits=trained.bits or asked.bits, pages=trained.pages)
    return reopened(opened, asked, config.image_size)


def reopened(opened: ImageData, config: ImagesConfig, size: tuple[int, int]) -> ImageData:
    """The same images, decoded in another way."""
    assert config.channels
    assert config.bits
    images = Images(
        opened.images.source, channels=config.channels, bits=config.bits, pages=config.pages, min_side=2 * max(size)
    )
    return replace(opened, images=images, config=config)

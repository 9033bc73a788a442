"""What is exported: the encoder, and what is known about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..nn.vit import ViT
from ..places import Weights, asked_for, open_weights
from ..runs import is_run
from ..weights import encoder_of


@dataclass(frozen=True)
class Source:
    encoder: ViT  # in eval mode, on the CPU
    where: str = ""  # as the user named it
    weights: Weights | None = None  # all that is there
    run: Path | None = None  # the run directory, when it is one or a checkpoint of one


@dataclass(frozen=True)
class Exported:
    """What was written, once the other library has loaded it and computed the same."""

    to: str  # timm, hf, ...
    difference: float  # the largest of a batch, relative to the largest value
    compared: str  # in words: what with what
    load: str  # Python that loads it; {out} stands for the directory
    library: str  # what the Hub calls it
    sizes: str = "only images of that size"  # which images it takes
    limits: tuple[str, ...] = ()  # what it cannot do


def source_at(where: Path, say: Callable[[str], None] = print) -> Source:
    """The encoder at WHERE; ValueError as `load_encoder`."""
    weights = open_weights(where)
    place = Path(asked_for(str(where))[0])
    run = None
    if is_run(place):
        run = place if (place / "checkpoints").is_dir() else place.parent.parent
    return Source(encoder_of(weights, say), str(where), weights, run)

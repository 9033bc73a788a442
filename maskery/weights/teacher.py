"""Load the frozen teacher of a method, and build objectives together with the networks they need."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from ..nn.frozen import Frozen
from ..nn.vit import ViTConfig
from ..objective import Objective
from ..options import unknown
from .load import load_encoder

RANDOM = "random:"
T = TypeVar("T", bound=Objective)


def build_objective(kind: type[T], settings: Any, vit: ViTConfig) -> T:
    """Build an objective, with its teacher loaded where the settings ask for one. ValueError: see `load_teacher`."""
    source = kind.teacher_source(settings)
    return kind(settings, vit, load_teacher(*source, vit)) if source else kind(settings, vit)


def load_teacher(teacher: str, weights: str | None, student: ViTConfig) -> Frozen:
    """Load a pretrained network as a teacher for the student's grid and channels.

    `teacher`: a vision transformer of timm by name, with its pretrained weights; "random:NAME", the same with random
    weights, always the same ones; or a directory: a run, a checkpoint or an export of ours. `weights`: a file for the
    timm model, instead of a download. It is read into memory whatever the default device is, and the global random
    generator stays as it was. ValueError when it does not exist, has no class token or no plain attention, or takes
    another number of channels.
    """
    from . import timm  # takes seconds to import

    name, names = teacher.removeprefix(RANDOM), timm.names()
    is_directory = name not in names
    if is_directory and not Path(teacher).is_dir():
        raise ValueError(f"teacher {name}: no such directory") if "/" in name else unknown("teacher", name, names)
    if weights and (is_directory or name != teacher):
        raise ValueError(f"--settings.teacher-weights {weights}: the teacher {teacher} takes no weights from a file")
    # "cpu": settings are checked under the meta device, and a missing teacher has to fail there.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        encoder = load_encoder(Path(teacher)) if is_directory else None
        config = encoder.config if encoder else timm.empty_teacher(name)
        if student.channels != config.channels and (student.channels, config.channels) != (1, 3):
            raise ValueError(
                f"the teacher {teacher} takes {config.channels} channels, the images have {student.channels}: it "
                "has to be the same number, or 1 that is repeated to 3"
            )
        size = student.grid[0] * config.patch_size, student.grid[1] * config.patch_size
        if encoder:
            net, origin = encoder, f"the encoder in {teacher}"
        else:
            net, origin = timm.load_teacher(name, size, weights, random=name != teacher)
        note = f"frozen teacher: {origin}; its input is {size[0]} x {size[1]} pixels"
        return Frozen(net, config, note)

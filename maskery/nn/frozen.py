"""A pretrained vision transformer that only looks: what it makes of every patch, and where its class token looks.

B batch, C channels, N patches, D width
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import unknown
from .positions import Grid
from .vit import ViT, ViTConfig

if TYPE_CHECKING:
    from ..weights.timm import TimmViT

RANDOM = "random:"
AT_ONCE = 256  # images; enough to keep any GPU busy


class Frozen(nn.Module):
    """Always in eval mode, never given a gradient; moved with the method, but not part of its state dict."""

    net: "ViT | TimmViT"
    mean: Tensor
    std: Tensor

    def __init__(self, teacher: str, weights: str | None, student: ViTConfig):
        """`teacher`: a vision transformer of timm by name, with its pretrained weights; "random:NAME", the same with
        random weights, always the same ones; or a directory: a run, a checkpoint or an export of ours. `weights`: a
        file for the timm model, instead of a download. `student`: whose grid and channels the teacher has to serve.

        It is read into memory whatever the default device is, and the global random generator stays as it was.
        ValueError when it is not there, has no class token or another attention, or looks at other channels.
        """
        # Neither is imported at the top: timm takes seconds, and weights know every method, which know this file.
        from ..weights import timm
        from ..weights.load import load_encoder

        super().__init__()
        name, names = teacher.removeprefix(RANDOM), timm.names()
        ours = name not in names
        if ours and not Path(teacher).is_dir():
            raise ValueError(f"teacher {name}: no such directory") if "/" in name else unknown("teacher", name, names)
        if weights and (ours or name != teacher):
            raise ValueError(
                f"--settings.teacher-weights {weights}: the teacher {teacher} takes no weights from a file"
            )
        # "cpu": settings are checked under the meta device, and a teacher that is not there has to fail there.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            encoder = load_encoder(Path(teacher)) if ours else None
            looks = encoder.config if encoder else timm.sketch(name)
            if student.channels != looks.channels and (student.channels, looks.channels) != (1, 3):
                raise ValueError(
                    f"the teacher {teacher} looks at {looks.channels} channels, the images have {student.channels}: it "
                    "has to be the same number, or 1 that is repeated to 3"
                )
            self.patch_size, self.dim = looks.patch_size, looks.dim
            height, width = self.size(student.grid)
            if encoder:
                net, what = encoder, f"the encoder in {teacher}"
            else:
                net, what = timm.load(name, (height, width), weights, random=name != teacher)
            self.register_buffer("mean", torch.tensor(looks.mean).view(-1, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(looks.std).view(-1, 1, 1), persistent=False)
        # Past nn.Module's registration: neither saved with the method, nor counted, nor trained.
        object.__setattr__(self, "net", net.requires_grad_(False).eval())
        self.note = f"frozen teacher: {what}; it looks at {height} x {width} pixels"

    def size(self, grid: Grid) -> tuple[int, int]:
        """(height, width) in pixels that give the teacher this grid of its own patches."""
        return grid[0] * self.patch_size, grid[1] * self.patch_size

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # what .to() and .cuda() go through
        self.net._apply(fn)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def attend(self, images: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in [0, 1] -> features of the grid's patches [B, N, D], attention to them [B, N], sum 1.

        The whole image is seen, in the size that gives the teacher this grid. `AT_ONCE` images go through together: a
        process's whole batch may be more than fits.
        """
        both = [self._attend(part, grid) for part in images.split(AT_ONCE)]
        if len(both) == 1:
            return both[0]
        features, attention = zip(*both, strict=True)
        return torch.cat(features), torch.cat(attention)

    def _attend(self, images: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        x = images.float()
        if x.shape[2:] != self.size(grid):
            x = F.interpolate(x, self.size(grid), mode="bicubic", antialias=True).clamp(0, 1)  # bicubic overshoots
        x = (x - self.mean) / self.std  # one channel becomes the three that the teacher looks at
        tokens, attention = self.net.attend(x)
        return tokens[:, -attention.shape[1] :], attention  # class and register tokens come first

"""Position embeddings of patches on a (rows, columns) grid.

N patches = rows * columns, D width. Tables have the class token first: [1, 1 + N, D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # (rows, columns)


def grid_of(image_size: tuple[int, int], patch_size: int) -> Grid:
    """(rows, columns) of an image of (height, width) pixels. ValueError when the patch size does not divide it."""
    height, width = image_size
    if patch_size < 1 or height < 1 or width < 1 or height % patch_size or width % patch_size:
        near = [max(patch_size, round(n / max(patch_size, 1)) * patch_size) for n in (height, width)]
        raise ValueError(
            f"image size {height} x {width} is not divisible by patch size {patch_size}; the nearest that is: "
            f"{near[0]} x {near[1]}"
        )
    return height // patch_size, width // patch_size


def sincos(dim: int, grid: Grid) -> Tensor:
    """Fixed 2-D sine-cosine positions, a zero row for the class token first: [1, 1 + N, D] (MAE's reference code).

    The first half of the channels encodes the *column*, the second the row; each half is [sin, cos] of the coordinate
    times omega_k = 10000^(-k / (D/4)). Raises ValueError when D is not divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {dim}")
    omega = 10_000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [coordinate.reshape(-1, 1) * omega for coordinate in (column, row)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)  # [N, D]
    return F.pad(table, (0, 0, 1, 0)).float()[None]


def resize(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """The table [1, 1 + N, D] of grid `old`, interpolated to grid `new` (bicubic, antialiased: the same as timm)."""
    if old == new:
        return table
    patches = table[:, 1:].float().unflatten(1, old).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    patches = F.interpolate(patches, size=new, mode="bicubic", antialias=True)
    return torch.cat([table[:, :1], patches.flatten(2).mT.to(table.dtype)], dim=1)

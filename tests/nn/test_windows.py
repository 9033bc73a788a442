"""Window attention against what it means: a mask that forbids all other windows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskery.nn.vit import ViT, ViTConfig, drop_paths
from maskery.nn.windows import global_blocks, window_attention, windowed


@pytest.mark.parametrize(("grid", "side"), [((4, 4), 2), ((4, 6), 2), ((5, 3), 2), ((7, 4), 3), ((3, 3), 14)])
def test_every_patch_looks_at_its_own_window(grid: tuple[int, int], side: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, grid[0] * grid[1], 8)
    rows, columns = torch.meshgrid(torch.arange(grid[0]) // side, torch.arange(grid[1]) // side, indexing="ij")
    window = (100 * rows + columns).flatten()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=window[:, None] == window)
    torch.testing.assert_close(window_attention(grid, side, q.device)(q, k, v), expected)


def test_global_blocks_are_vitdets() -> None:
    assert global_blocks(12, 4) == (2, 5, 8, 11)
    assert global_blocks(24, 4) == (5, 11, 17, 23)
    assert global_blocks(32, 4) == (7, 15, 23, 31)
    assert global_blocks(2, 4) == (0, 0, 1, 1)


def test_a_window_of_everything_is_no_window() -> None:
    torch.manual_seed(0)
    f = ViT(ViTConfig(24, 3, 3, 8, (32, 32)))
    x, paths = torch.randn(2, 3, 40, 24), drop_paths(2, 3, 0.5, torch.device("cpu"))
    torch.testing.assert_close(windowed(f, x, 5, (), paths), windowed(f, x, 2, (0, 1, 2), paths))


def test_far_patches_are_seen_by_global_blocks_only() -> None:
    torch.manual_seed(0)
    f, x = ViT(ViTConfig(24, 2, 3, 8, (64, 64))), torch.randn(1, 3, 64, 64, requires_grad=True)

    def seen(everywhere: tuple[int, ...]) -> Tensor:
        (gradient,) = torch.autograd.grad(windowed(f, x, 4, everywhere)[0, 0].sum(), x)
        return gradient[0, 0, -1, -1].abs()

    assert seen(()) == 0
    assert seen((1,)) > 0

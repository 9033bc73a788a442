"""The decoders are those of the literature, but for their norms."""

from typing import Any

import pytest
import torch
from torch import nn

from maskery.nn.all_mlp import AllMLP
from maskery.nn.upernet import Pyramid, UPerNet, norm


def taken_over(theirs: nn.Module, ours: nn.Module, theirs_conv: str, theirs_norm: str) -> None:
    """Our convolution and norm in their module."""
    conv, own_norm = ours[0], ours[1]  # type: ignore[index]
    getattr(theirs, theirs_conv).load_state_dict(conv.state_dict(), strict=True)
    setattr(theirs, theirs_norm, own_norm)


@pytest.mark.parametrize("grid", [(4, 4), (5, 7)])
def test_upernet_is_transformers_with_other_norms(grid: tuple[int, int]) -> None:
    modeling = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    from transformers import UperNetConfig

    torch.manual_seed(0)
    maps = [torch.randn(2, 16, *grid) for _ in range(4)]
    pyramid, ours = Pyramid(16), UPerNet(16, 32)
    for module in ours.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    theirs: Any = modeling.UperNetHead(UperNetConfig(hidden_size=32, num_labels=3), [16] * 4)
    pairs = [*zip(theirs.lateral_convs, ours.lateral, strict=True), *zip(theirs.fpn_convs, ours.out, strict=True)]
    pairs += [(block.layers[1], own) for block, own in zip(theirs.psp_modules.blocks, ours.pooled, strict=True)]
    for module, own in [*pairs, (theirs.bottleneck, ours.bottleneck), (theirs.fpn_bottleneck, ours.fuse)]:
        taken_over(module, own, "conv", "batch_norm")
    theirs.classifier = nn.Identity()
    levels = pyramid(maps)
    assert [tuple(x.shape[2:]) for x in levels] == [tuple(int(n * f) for n in grid) for f in (4, 2, 1, 0.5)]
    found = ours(levels)
    assert found.shape == (2, 32, 4 * grid[0], 4 * grid[1])
    torch.testing.assert_close(found, theirs(levels))


def test_all_mlp_fuses_as_segformer() -> None:
    modeling = pytest.importorskip("transformers.models.segformer.modeling_segformer")
    from transformers import SegformerConfig

    torch.manual_seed(0)
    maps, ours = [torch.randn(2, 16, 4, 6) for _ in range(4)], AllMLP(16, 32, 4)
    theirs: Any = modeling.SegformerDecodeHead(SegformerConfig(hidden_sizes=[16] * 4, decoder_hidden_size=32)).eval()
    for module, own in zip(theirs.linear_projections, ours.linears, strict=True):
        module.proj.load_state_dict(own.state_dict())
    taken_over(theirs, ours.fuse, "linear_fuse", "batch_norm")
    theirs.classifier = nn.Identity()
    normed = [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for x, norm in zip(maps, ours.norms, strict=True)]
    torch.testing.assert_close(ours.fused(maps), theirs(normed))
    assert ours(maps).shape == (2, 8, 16, 24)


@pytest.mark.parametrize("width", [1, 12, 16, 128, 384, 768])
def test_no_group_of_one_channel(width: int) -> None:
    """Averaged to one place, such a group would be zero whatever it was, and nothing before it would learn."""
    groups = norm(width).num_groups
    assert groups <= 32
    assert width == 1 or width // groups >= 8


def test_a_grid_of_one_patch() -> None:
    maps = [torch.randn(1, 16, 1, 1) for _ in range(4)]
    assert UPerNet(16, 16)(Pyramid(16)(maps)).shape == (1, 16, 4, 4)

"""The decoder: what it predicts is the paper's, in whatever order it computes."""

import pytest
import torch
from torch import Tensor

from maskery.nn import masking, positions
from maskery.nn.decoder import Decoder, DecoderSize
from maskery.nn.vit import ViTConfig

VIT, B, N = ViTConfig(32, 1, 2, 8, (32, 48)), 3, 24


def decoder(depth: int = 2, dtype: torch.dtype = torch.float64) -> Decoder:
    torch.manual_seed(0)
    net = Decoder(VIT, DecoderSize(16, depth, 4), 5).to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # biases are no longer zero
    return net


def tokens(ratio: float = 0.75, n: int = N) -> tuple[Tensor, masking.Mask]:
    torch.manual_seed(1)
    mask = masking.hide_highest(torch.rand(B, n), ratio)
    return torch.randn(B, 1 + mask.keep.shape[1], 32, dtype=torch.float64), mask


def written_out(net: Decoder, z: Tensor, mask: masking.Mask, grid: positions.Grid = VIT.grid) -> Tensor:
    """Every patch at its place in the image, one image after the other: [B, 1 + N, P]."""
    rows = []
    for b in range(len(z)):
        y = net.embed(z[b])
        patches = [net.mask_token[0, 0]] * mask.restore.shape[1]
        for token, n in enumerate(mask.keep[b].tolist(), start=1):
            patches[n] = y[token]
        row = torch.stack([y[0], *patches])[None] + positions.resize(net.pos_embed, VIT.grid, grid)
        for block in net.blocks:
            row = block(row)
        rows.append(net.pred(net.norm(row)))
    return torch.cat(rows)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("ratio", [0.25, 0.75, 0.95])
def test_all_patches_and_hidden_ones_are_as_written_out(depth: int, ratio: float) -> None:
    net, (z, mask) = decoder(depth), tokens(ratio)
    expected = written_out(net, z, mask)
    torch.testing.assert_close(net.predict(z, mask), expected)
    torch.testing.assert_close(net(z, mask), expected[:, 1:])
    hidden = masking.take(expected[:, 1:], masking.hidden_places(mask))
    torch.testing.assert_close(net(z, mask, hidden_only=True), hidden)
    assert hidden.shape == (B, int(mask.hidden[0].sum()), 5)


@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_of_hidden_predictions_are_those_of_all(depth: int) -> None:
    net, (z, mask) = decoder(depth), tokens()
    z.requires_grad_()
    wanted = [z, *(p for p in net.parameters() if p.requires_grad)]
    losses = [
        net(z, mask, hidden_only=True).square().sum(),
        (written_out(net, z, mask)[:, 1:].square() * mask.hidden[..., None]).sum(),
    ]
    for mine, theirs in zip(*(torch.autograd.grad(loss, wanted) for loss in losses), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_another_grid() -> None:
    net, (z, mask) = decoder(), tokens(n=35)
    expected = written_out(net, z, mask, (5, 7))
    torch.testing.assert_close(net(z, mask, (5, 7)), expected[:, 1:])
    hidden = masking.take(expected[:, 1:], masking.hidden_places(mask))
    torch.testing.assert_close(net(z, mask, (5, 7), hidden_only=True), hidden)


def test_the_last_block_and_the_head_see_hidden_patches_only() -> None:
    net, (z, mask) = decoder(), tokens()
    seen: dict[str, int] = {}
    for name, module in (("first", net.blocks[0].mlp), ("last", net.blocks[1].mlp), ("head", net.pred)):
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0].shape[1]}))
    net(z, mask, hidden_only=True)
    assert seen == {"first": 1 + N, "last": 18, "head": 18}
    net(z, mask)
    assert seen == {"first": 1 + N, "last": 1 + N, "head": 1 + N}

"""Patches, normalised patches, and back."""

import torch

from maskery.nn.targets import patchify, pixels, standardise, unpatchify, unstandardise


def test_patches_are_row_column_channel() -> None:
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    patches = patchify(x, 2)
    assert patches.shape == (1, 6, 8)
    first = [x[0, c, i, j] for i in range(2) for j in range(2) for c in range(2)]
    assert patches[0, 0].tolist() == [float(v) for v in first]
    assert patches[0, 1, 0] == x[0, 0, 0, 2]  # the next patch is the next column


def test_round_trips() -> None:
    x = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(unpatchify(patchify(x, 4), 4, (2, 3)), x)
    patches = patchify(x, 4)
    torch.testing.assert_close(unstandardise(standardise(patches), patches), patches)


def test_standardised_patches() -> None:
    u = standardise(torch.rand(2, 5, 48))
    assert u.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(u.var(-1), torch.ones(2, 5), rtol=1e-3, atol=1e-3)
    patches = torch.rand(2, 5, 48, dtype=torch.float64) * torch.tensor([1, 1e-2, 1e-3, 1e-4, 0]).view(5, 1)
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(standardise(patches), expected)  # nearly flat ones too, where eps decides
    constant = standardise(torch.full((1, 1, 48), 0.3))
    assert constant.abs().max() < 1e-3  # no noise blown up where a patch is flat


def test_some_places_only() -> None:
    x, places = torch.rand(2, 3, 8, 12), torch.tensor([[5, 0], [2, 3]])
    for norm in (False, True):
        every = pixels(x, 4, norm)
        expected = torch.stack([every[b, places[b]] for b in range(2)])
        torch.testing.assert_close(pixels(x, 4, norm, places), expected, rtol=0, atol=1e-6)

"""Weights for other images: what the adapted network sees is what the old one saw."""

import pytest
import torch
import torch.nn.functional as F
from timm.models._manipulate import adapt_input_conv

from maskery.nn.decoder import Decoder, DecoderSize
from maskery.nn.positions import resize
from maskery.nn.vit import IMAGENET_MEAN, IMAGENET_STD, ViT, ViTConfig
from maskery.weights.convert import Metadata
from maskery.weights.load import adapt

BASE = ViTConfig(48, 2, 3, 8, (32, 48), IMAGENET_MEAN, IMAGENET_STD)
METADATA = Metadata(3, (32, 48), IMAGENET_MEAN, IMAGENET_STD)


def trained(config: ViTConfig = BASE) -> ViT:
    """As far as anybody can tell: nothing in it is as it is in the beginning."""
    torch.manual_seed(1)
    vit = ViT(config).eval().requires_grad_(False)
    for p in vit.parameters():
        p.normal_(std=0.2)
    return vit


def adapted(vit: ViT, to: ViTConfig, metadata: Metadata = METADATA) -> tuple[ViT, list[str]]:
    state, _, changed = adapt.encoder(vit.state_dict(), metadata, to)
    new = ViT(to).eval()
    new.load_state_dict(state)
    return new, changed


@pytest.mark.parametrize(("old", "new"), [(8, 16), (8, 12), (4, 5)])
def test_a_larger_patch_that_is_the_resized_one_has_the_same_embedding(old: int, new: int) -> None:
    kernel, images = torch.randn(48, 3, old, old), torch.randn(5, 3, old, old)
    larger = F.interpolate(images, (new, new), mode="bicubic", antialias=True)
    seen = F.conv2d(larger, adapt.patch(kernel, new))
    torch.testing.assert_close(seen, F.conv2d(images, kernel), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("new", [4, 6, 16])
def test_an_even_patch_of_any_size_has_the_same_embedding(new: int) -> None:
    """Patches of one colour are what a change of the patch size cannot change; plain resizing of kernels does."""
    kernel = torch.randn(48, 3, 8, 8)
    kernel = F.interpolate(torch.randn(48, 3, 2, 2), (8, 8), mode="bicubic") + 0.01 * kernel  # smooth, as trained ones
    colour = torch.rand(2, 3, 1, 1)
    old, seen = (F.conv2d(colour.expand(2, 3, p, p), k) for p, k in ((8, kernel), (new, adapt.patch(kernel, new))))
    naive = F.conv2d(colour.expand(2, 3, new, new), F.interpolate(kernel, (new, new), mode="bicubic"))
    assert (seen - old).norm() < 0.05 * old.norm() < 0.2 * (naive - old).norm()


@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3)])
def test_a_grey_image_is_to_one_channel_what_it_was_to_three(mean: tuple, std: tuple) -> None:
    vit = trained(ViTConfig(48, 2, 3, 8, (32, 48), mean, std))
    grey = ViTConfig(48, 2, 3, 8, (32, 48), (sum(mean) / 3,), (sum(std) / 3,))
    one, changed = adapted(vit, grey, Metadata(3, (32, 48), mean, std))
    images = torch.rand(2, 1, 32, 48)
    for ours, theirs in zip(one(images), vit(images.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert changed == ["channels 3 -> 1 (summed: a grey image in the place of all of them)"]


def test_copies_of_one_channel_are_to_many_what_it_was_to_one() -> None:
    vit = trained(ViTConfig(48, 2, 3, 8, (32, 48), (0.4,), (0.2,)))
    five = ViTConfig(48, 2, 3, 8, (32, 48), (0.4,) * 5, (0.2,) * 5)
    many, _ = adapted(vit, five, Metadata(3, (32, 48), (0.4,), (0.2,)))
    images = torch.rand(2, 1, 32, 48)
    torch.testing.assert_close(many(images.expand(-1, 5, -1, -1))[1], vit(images)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", [2, 4, 13])
def test_more_channels_are_timms(wanted: int) -> None:
    kernel, bias = torch.randn(48, 3, 8, 8), torch.randn(48)
    ours, same, how = adapt.channels(kernel, bias, wanted, (0.5,) * 3, (0.2,) * 3)
    torch.testing.assert_close(ours, adapt_input_conv(wanted, kernel))
    assert same is bias
    assert f"x 3/{wanted}" in how


def test_positions_are_resized_as_rows_and_columns() -> None:
    vit = trained()
    to = ViTConfig(48, 2, 3, 8, (48, 32), IMAGENET_MEAN, IMAGENET_STD)
    new, changed = adapted(vit, to)
    assert torch.equal(new.pos_embed, resize(vit.pos_embed, (4, 6), (6, 4)))
    assert changed == ["positions 4 x 6 -> 6 x 4 (bicubic)"]
    images = torch.rand(1, 3, 48, 32)
    torch.testing.assert_close(new(images)[1], vit(images)[1])  # as it resizes them itself


def test_images_of_the_same_kind_change_nothing() -> None:
    vit = trained()
    state, grid, changed = adapt.encoder(vit.state_dict(), METADATA, BASE)
    assert (grid, changed) == ((4, 6), [])
    assert all(torch.equal(t, vit.state_dict()[name]) for name, t in state.items())


def test_a_decoder_that_fits_and_what_of_it_does_not() -> None:
    other = ViTConfig(48, 2, 3, 16, (32, 48))
    theirs = Decoder(BASE, DecoderSize(32, 2, 4), 192).state_dict()
    own = Decoder(other, DecoderSize(32, 2, 4), 768).state_dict()
    taken, reason = adapt.decoder(theirs, own, ((4, 6), (2, 3)), (4, 4))
    assert not reason
    assert [name for name, t in own.items() if taken[name].shape != t.shape] == ["pred.weight", "pred.bias"]
    assert torch.equal(taken["pos_embed"], resize(theirs["pos_embed"], (4, 6), (2, 3)))
    assert adapt.decoder(theirs, own, ((4, 6), (2, 3)), (None, 4))[0].keys() == taken.keys()
    assert adapt.decoder(theirs, own, ((4, 6), (2, 3)), (8, 4)) == (
        {},
        "there 32 wide, 2 blocks, 8 heads; here 32, 2, 4",
    )
    small = Decoder(other, DecoderSize(32, 1, 4), 768).state_dict()
    assert adapt.decoder(theirs, small, ((4, 6), (2, 3)), (4, 4))[0] == {}

"""The vision transformer: timm's parameters and numbers, any size, any channels."""

import pytest
import timm
import torch

from maskery.nn import masking
from maskery.nn.vit import SIZES, Block, PatchEmbed, ViT, ViTConfig

TINY = ViTConfig(48, 3, 3, 8, (32, 48), (0.4, 0.5), (0.2, 0.3))


def timm_twin(config: ViTConfig) -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.channels,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=0,
        dynamic_img_size=True,
    ).eval()


@pytest.mark.parametrize("direction", ["to timm", "from timm"])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_weights_go_strictly_both_ways_and_give_the_same_features(direction: str, channels: int) -> None:
    torch.manual_seed(0)
    config = ViTConfig(48, 3, 3, 8, (32, 48), (0.4,) * channels, (0.2,) * channels)
    ours, theirs = ViT(config).eval(), timm_twin(config)
    if direction == "to timm":
        theirs.load_state_dict(ours.state_dict(), strict=True)
    else:
        ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.rand(2, channels, 32, 48)
    class_token, patches = ours(images)
    expected = theirs.forward_features(ours.normalise(images))
    torch.testing.assert_close(torch.cat([class_token[:, None], patches], 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("vit-tiny", "vit_tiny_patch16_224"),
        ("vit-small", "vit_small_patch16_224"),
        ("vit-base", "vit_base_patch16_224"),
        ("vit-large", "vit_large_patch16_224"),
        ("vit-huge", "vit_huge_patch14_224"),
    ],
)
def test_sizes_are_timms(name: str, timm_name: str) -> None:
    size = SIZES[name]
    with torch.device("meta"):
        theirs = timm.create_model(timm_name, num_classes=0)
        ours = ViT(ViTConfig(size.dim, size.depth, size.heads, theirs.patch_embed.patch_size[0]))
    shapes = {k: v.shape for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == shapes
    assert theirs.blocks[0].attn.num_heads == size.heads


def test_another_image_size_interpolates_positions_as_timm_does() -> None:
    torch.manual_seed(0)
    ours, theirs = ViT(TINY).eval(), timm_twin(TINY)
    torch.nn.init.normal_(ours.pos_embed)
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 2, 64, 40)
    class_token, patches = ours(images)
    assert patches.shape == (2, 8 * 5, 48)
    expected = theirs.forward_features(ours.normalise(images))
    torch.testing.assert_close(torch.cat([class_token[:, None], patches], 1), expected, rtol=1e-5, atol=1e-5)


def test_without_a_mask_nothing_is_masked_and_nothing_is_random() -> None:
    vit = ViT(TINY)
    images = torch.rand(2, 2, 32, 48)
    class_token, patches = vit(images)
    assert class_token.shape == (2, 48)
    assert patches.shape == (2, 24, 48)
    torch.testing.assert_close(vit(images)[1], patches, rtol=0, atol=0)


def test_patch_embedding_is_the_convolution() -> None:
    embed = PatchEmbed(3, 16, 8)
    images = torch.rand(2, 3, 16, 32)
    expected = embed.proj(images).flatten(2).mT
    torch.testing.assert_close(embed(images), expected)
    keep = torch.tensor([[5, 0], [2, 7]])
    torch.testing.assert_close(embed(images, keep), masking.take(expected, keep))


def test_hidden_patches_are_not_looked_at() -> None:
    vit = ViT(TINY)
    images = torch.rand(1, 2, 32, 48)
    mask = masking.hide_highest(torch.rand(1, 24), 0.75)
    tokens = vit(images, mask)[1]
    assert tokens.shape == (1, 6, 48)
    hidden = int(mask.hidden[0].nonzero()[0])
    row, column = divmod(hidden, 6)
    images[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.123
    torch.testing.assert_close(vit(images, mask)[1], tokens, rtol=0, atol=0)


def test_initial_statistics_are_the_references() -> None:
    torch.manual_seed(0)
    vit = ViT(ViTConfig(384, 2, 6))
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.15)
    for m in vit.modules():
        if isinstance(m, torch.nn.Linear):
            bound = (6 / (m.in_features + m.out_features)) ** 0.5  # a fused qkv counts as one matrix
            assert m.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert not m.bias.any()
    bound = (6 / (384 + 768)) ** 0.5  # xavier on the flattened convolution
    assert vit.patch_embed.proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    bias = vit.patch_embed.proj.bias.abs().max().item()  # the convolution's default: uniform within 1 / sqrt(768)
    assert bias == pytest.approx(768**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": (32, 50)}, "32 x 50 is not divisible by patch size 8"),
        ({"heads": 5}, "48 cannot be shared equally by 5 heads"),
        ({"mean": (0.1,)}, "mean has 1 channels and std has 2"),
        ({"std": (0.0, 1.0)}, "above 0"),
    ],
)
def test_parts_that_do_not_fit(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ViTConfig(**{**TINY.__dict__, **change})


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="looks at 2 channels, the images have 3"):
        ViT(TINY)(torch.rand(1, 3, 32, 48))
    with pytest.raises(ValueError, match="33 x 48 is not divisible"):
        ViT(TINY)(torch.rand(1, 2, 33, 48))


@pytest.mark.parametrize("first", [1, 5, 16])
def test_a_block_that_hands_on_its_last_tokens_only(first: int) -> None:
    torch.manual_seed(0)
    block = Block(24, 3).double()
    torch.nn.init.normal_(block.attn.qkv.bias)
    x = torch.randn(2, 17, 24, dtype=torch.float64, requires_grad=True)
    wanted = [x, *block.parameters()]
    outputs = [block(x, first=first), block(x)[:, first:]]
    torch.testing.assert_close(*outputs)
    for mine, theirs in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in outputs), strict=True):
        torch.testing.assert_close(mine, theirs)

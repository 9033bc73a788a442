"""Networks of timm and Hugging Face as ours: the same features, or a refusal that names why not."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskery.nn.vit import ViT
from maskery.weights.convert import Metadata, decoder_tensors, encoder_tensors, image_size, vit_config

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
METADATA = Metadata(3, (32, 32), (0.5,) * 3, (0.5,) * 3)


def timms(**args: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**SMALL | args).eval().requires_grad_(False)
    for p in model.parameters():
        p.copy_(torch.randn_like(p) * 0.2)
    return model


def ours(state: dict[str, Tensor], metadata: Metadata = METADATA) -> tuple[ViT, list[str]]:
    converted, notes = encoder_tensors(state, metadata)
    vit = ViT(vit_config(converted, metadata)[0]).eval()
    vit.load_state_dict(converted)
    return vit, notes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, []),
        ({"num_classes": 5}, ["head left out"]),
        ({"init_values": 0.1}, ["LayerScale multiplied into the weights it scales"]),
        ({"qkv_bias": False}, ["zeros for biases that its queries, keys and values do not have"]),
        ({"no_embed_class": True}, ["zeros for the position of the class token, which it does not have"]),
        (
            {"img_size": (32, 64), "no_embed_class": True},
            ["zeros for the position of the class token, which it does not have"],
        ),
        ({"img_size": (32, 48)}, []),  # 1 + 24 positions, which could be taken for 5 x 5
    ],
)
def test_what_ours_can_be_has_the_same_features(args: dict, words: list[str]) -> None:
    model = timms(**args)
    size = args.get("img_size", (32, 32))
    vit, notes = ours(model.state_dict(), Metadata(3, size, (0.5,) * 3, (0.5,) * 3))
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(
        vit.encode(vit.normalise(images)), model.forward_features(vit.normalise(images)), rtol=1e-5, atol=1e-5
    )
    assert notes == words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"reg_tokens": 2}, r"the network has register tokens \(reg_token\)"),
        ({"qk_norm": True}, r"norms of queries and keys \(blocks.0.attn.q_norm.weight\)"),
        ({"pre_norm": True}, r"a norm before its first block, as CLIP has it \(norm_pre"),
        ({"fc_norm": True, "global_pool": "avg"}, r"a norm of averaged patches .* \(fc_norm"),
        (
            {"mlp_ratio": 2.0},
            r"blocks.0.mlp.fc1.weight is \[96, 48\], in a plain vision transformer of width 48 \[192, 48\]",
        ),
        ({"pos_embed": "none"}, "no table of positions"),
        ({"scale_attn_norm": True}, "blocks.0.attn.norm.bias is not part of a plain vision transformer"),
        ({"patch_size": (8, 4)}, "patches have to be square"),
        ({"final_norm": False}, "norm.bias is missing"),
    ],
)
def test_what_ours_cannot_be_is_refused_by_name(args: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        encoder_tensors(timms(**args).state_dict(), METADATA)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.surprise": torch.zeros(3)}, "blocks.1.surprise is not part of a plain vision transformer"),
        ({"decoration": torch.zeros(3)}, "decoration is not part of a plain vision transformer"),
        ({"dist_token": torch.zeros(1, 1, 48)}, "a distillation token"),
        ({"blocks.0.mlp.w12.weight": torch.zeros(3)}, "a gated MLP"),
        ({"blocks.0.attn.relative_position_bias_table": torch.zeros(3)}, "relative positions"),
        ({"norm.weight": torch.full((48,), torch.nan)}, "norm.weight has values that are not finite"),
        ({"norm.weight": torch.zeros(47)}, r"norm.weight is \[47\]"),
        ({"pos_embed": torch.zeros(17, 48)}, r"pos_embed is \[17, 48\]"),
        ({"patch_embed.proj.weight": torch.zeros(48, 192)}, "patches have to be square"),
        ({"patch_embed.proj.weight": torch.zeros(47, 3, 8, 8)}, "of width 47 with 2 blocks cannot be"),
        ({"blocks.0.attn.qkv.weight": None}, "blocks.0.attn.qkv.weight is missing"),
        ({"blocks.0.attn.q.weight": torch.zeros(48, 48)}, "blocks.0.attn.qkv: the weights of query, key and value"),
        (
            {"blocks.0.ls1.gamma": torch.zeros(47)},
            r"blocks.0.ls1.gamma, \[47\], does not scale blocks.0.attn.proj.weight",
        ),
    ],
)
def test_a_state_dict_with_something_wrong(change: dict, words: str) -> None:
    state = {name: t for name, t in (timms().state_dict() | change).items() if t is not None}
    with pytest.raises(ValueError, match=words):
        encoder_tensors(state, METADATA)


def test_half_precision_becomes_single() -> None:
    converted, _ = encoder_tensors({k: t.bfloat16() for k, t in timms().state_dict().items()}, METADATA)
    assert {t.dtype for t in converted.values()} == {torch.float32}


def test_what_a_network_looks_at() -> None:
    state, _ = encoder_tensors(timms(img_size=(32, 64)).state_dict(), Metadata())
    with pytest.raises(ValueError, match=r"does not follow from a width of 48: append #heads=N"):
        vit_config(state, Metadata(image_size=(32, 64)))
    with pytest.raises(ValueError, match=r"its 32 positions are not a square: .* #size=HEIGHTxWIDTH"):
        vit_config(state, Metadata(3))
    with pytest.raises(ValueError, match="not a square and not those of 32 x 32 pixels"):
        vit_config(state, Metadata(3, (32, 32)))
    config, assumed = vit_config(state, Metadata(3, (32, 64)))
    assert config.image_size == (32, 64)
    assert assumed == ["how its images were normalised is not known: ImageNet's mean and std are taken"]
    assert image_size(
        {"pos_embed": torch.zeros(1, 50, 4), "patch_embed.proj.weight": torch.zeros(4, 3, 2, 2)}, Metadata()
    ) == (14, 14)
    five, _ = encoder_tensors(timms(in_chans=5).state_dict(), Metadata())
    with pytest.raises(ValueError, match="how its 5 channels were normalised is not known"):
        vit_config(five, Metadata(3))
    assert vit_config(five, Metadata(3, None, (0.1,) * 5, (0.2,) * 5))[0].mean == (0.1,) * 5


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_published_widths_say_how_many_heads_there_are(width: int, heads: int) -> None:
    state = {
        "patch_embed.proj.weight": torch.zeros(width, 3, 2, 2),
        "pos_embed": torch.zeros(1, 5, width),
        "blocks.0.norm1.bias": torch.zeros(width),
    }
    assert vit_config(state, Metadata())[0].heads == heads


def test_names_as_transformers_has_them_in_memory() -> None:
    from transformers import ViTConfig, ViTModel  # takes seconds to import

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, layer_norm_eps=1e-6)).eval().requires_grad_(False)
    for p in model.parameters():
        p.normal_(std=0.2)
    vit, notes = ours(model.state_dict(), Metadata(2, (32, 32), (0.5,) * 3, (0.5,) * 3))
    images = torch.rand(2, 3, 32, 32)
    expected = model(vit.normalise(images)).last_hidden_state
    torch.testing.assert_close(vit.encode(vit.normalise(images)), expected, rtol=1e-5, atol=1e-5)
    assert notes == ["pooler left out"]


def test_a_decoder_of_nobody_is_none() -> None:
    assert decoder_tensors({}) == {}
    assert decoder_tensors({"layers.0.weight": torch.zeros(2)}) == {}

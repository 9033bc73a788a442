"""Frozen teachers: what timm computes, with weights from where they are said to be from, and never touched."""

import copy
import pickle
import re
import time
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from maskery.nn.vit import ViT, ViTConfig
from maskery.weights.teacher import load_teacher
from maskery.weights.timm import TimmViT
from tests.exported import to_timm

STUDENT = ViTConfig(48, 1, 3, 8, (32, 48))  # a grid of 4 x 6
NAME = "test_vit"  # the smallest that timm has: 64 wide, 6 blocks, patch 16
CLOSED = "http://127.0.0.1:9"  # nobody answers there


@pytest.fixture
def model() -> nn.Module:
    """A trained model as far as anybody can tell: at its own 160 pixels, with a head."""
    torch.manual_seed(5)
    model = timm.create_model(NAME).eval().requires_grad_(False)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a hub that nobody can reach."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def by_hand(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Patch features, and the whole softmax of the last block from which the class token's row is cut."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    last, attn = model.blocks[-1], model.blocks[-1].attn
    qkv = attn.qkv(last.norm1(tokens)).reshape(*tokens.shape[:2], 3, attn.num_heads, -1)
    q, k = attn.q_norm(qkv[:, :, 0].transpose(1, 2)), attn.k_norm(qkv[:, :, 1].transpose(1, 2))
    whole = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1)  # [B, S, S]
    first = model.num_prefix_tokens
    row = whole[:, 0, first:]
    return model.norm(last(tokens))[:, first:], row / row.sum(1, keepdim=True)


def test_features_and_attention_are_the_models_in_its_own_size_and_normalisation(
    model: nn.Module, tmp_path: Path
) -> None:
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher(NAME, str(tmp_path / "w.safetensors"), STUDENT)
    images = torch.rand(2, 3, 32, 48)
    x = (F.interpolate(images, (64, 96), mode="bicubic", antialias=True).clamp(0, 1) - 0.5) / 0.5
    model.set_input_size(img_size=(64, 96))  # its positions, trained for 10 x 10 patches, go with it
    features, attention = by_hand(model, x)
    found = teacher.attend(images, (4, 6))
    torch.testing.assert_close(found[0], features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], attention, rtol=1e-4, atol=1e-6)
    assert float(attention.std()) > 0.01  # the weights are such that it looks somewhere
    assert (teacher.dim, teacher.patch_size) == (64, 16)
    assert "64 x 96" in teacher.note
    assert str(tmp_path) in teacher.note


@pytest.mark.parametrize(
    ("name", "prefix", "grid"),
    [
        (NAME, 1, (5, 3)),  # another grid than the student's
        ("deit_tiny_distilled_patch16_224", 2, (4, 6)),  # class and distillation token
        ("vit_small_patch14_reg4_dinov2", 5, (4, 6)),  # patches of 14 pixels, class token and four registers
    ],
)
def test_prefix_tokens_patch_sizes_and_grids(name: str, prefix: int, grid: tuple[int, int]) -> None:
    teacher = load_teacher(f"random:{name}", None, STUDENT)
    model, p = teacher.net.model, teacher.patch_size
    model.blocks[-1].attn.qkv.weight.mul_(20)  # random ones look everywhere alike
    images = torch.rand(1, 3, 8 * grid[0], 8 * grid[1])
    resized = F.interpolate(images, (grid[0] * p, grid[1] * p), mode="bicubic", antialias=True).clamp(0, 1)
    features, attention = by_hand(model, (resized - teacher.mean) / teacher.std)
    assert model.num_prefix_tokens == prefix
    found = teacher.attend(images, grid)
    assert found[0].shape == (1, grid[0] * grid[1], teacher.dim)
    torch.testing.assert_close(found[0], features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], attention, rtol=1e-3, atol=1e-6)
    assert float(attention.std()) > 0.001


def test_norms_of_q_and_k_are_part_of_the_attention() -> None:
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=0, img_size=32, qk_norm=True).eval()
    nn.init.normal_(model.blocks[-1].attn.q_norm.weight, std=3)
    x = torch.randn(2, 3, 32, 32)
    tokens, attention = TimmViT(model).attend(x)
    assert torch.equal(tokens, model.forward_features(x))  # asking changes nothing
    torch.testing.assert_close(attention, by_hand(model, x)[1], rtol=1e-4, atol=1e-6)


def test_it_only_looks() -> None:
    class Method(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = load_teacher(f"random:{NAME}", None, STUDENT)

    method = Method().train()
    assert not method.state_dict()
    assert not list(method.parameters())
    assert not any(m.training for m in method.teacher.net.modules())
    images = torch.rand(1, 3, 32, 48, requires_grad=True)
    assert not any(out.requires_grad for out in method.teacher.attend(images, (4, 6)))
    assert not any(p.requires_grad for p in method.teacher.net.parameters())

    other = copy.deepcopy(method)
    expected = method.teacher.attend(images, (4, 6))[0]
    with torch.no_grad():
        next(method.teacher.net.parameters()).add_(1)
    assert torch.equal(other.teacher.attend(images, (4, 6))[0], expected)
    other.to(torch.float64)
    assert {p.dtype for p in other.teacher.net.parameters()} == {torch.float64}
    other.to("meta")
    assert {t.device.type for t in (*other.teacher.net.parameters(), other.teacher.mean)} == {"meta"}


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = load_teacher(f"random:{NAME}", None, STUDENT)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.device("meta"):  # as settings are checked
        other = load_teacher(f"random:{NAME}", None, STUDENT)
    a, b = one.net.state_dict(), other.net.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert {t.device.type for t in (*b.values(), other.mean, other.std)} == {"cpu"}
    assert "RANDOM" in one.note


def test_one_channel_is_repeated_and_others_are_refused() -> None:
    grey = ViTConfig(48, 1, 3, 8, (32, 48), (0.4,), (0.2,))
    teacher = load_teacher(f"random:{NAME}", None, grey)
    images = torch.rand(2, 1, 32, 48)
    for one, three in zip(*(teacher.attend(x, (4, 6)) for x in (images, images.repeat(1, 3, 1, 1))), strict=True):
        torch.testing.assert_close(one, three)
    bands = ViTConfig(48, 1, 3, 8, (32, 48), (0.4,) * 5, (0.2,) * 5)
    with pytest.raises(ValueError, match="takes 3 channels, the images have 5"):
        load_teacher(NAME, None, bands)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_of_weights(model: nn.Module, tmp_path: Path, suffix: str) -> None:
    file, weights = tmp_path / f"w{suffix}", model.state_dict()
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save({"state_dict": weights, "epoch": 3}, file)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    loaded = load_teacher(NAME, str(file), STUDENT).net.model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(loaded) > 70
    for k, value in loaded.items():
        assert k == "pos_embed" or torch.equal(value, weights[k]), k


def test_files_that_are_not_its_weights(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    weights = model.state_dict()

    def refused(match: str, name: str = NAME) -> None:
        with pytest.raises(ValueError, match=match) as error:
            load_teacher(name, str(file), STUDENT)
        assert "\n" not in str(error.value)
        assert str(file) in str(error.value)

    refused("there is no such file")
    torch.save({k: v for k, v in weights.items() if not k.startswith("blocks.3.norm1")}, file)
    refused(r"not the weights of test_vit: blocks.3.norm1.bias is missing")
    torch.save(weights | {"blocks.6.norm1.bias": weights["blocks.5.norm1.bias"]}, file)
    refused("blocks.6.norm1.bias is not in this model")
    torch.save(weights, file)
    refused("size mismatch", "vit_tiny_patch16_224")
    torch.save(torch.zeros(3), file)
    refused("not the weights")
    file.write_bytes(b"nothing of the kind")
    refused("not the weights")
    file.write_bytes(pickle.dumps(Path("/tmp"), protocol=2))
    refused("not the weights")
    torch.save({"w": Path("/tmp")}, file)  # an object whose making runs code
    refused("not the weights")
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"nothing of the kind")
    refused("not the weights")


def test_weights_from_the_cache_of_the_hub(model: nn.Module, offline: Path) -> None:
    repository = offline / "models--timm--test_vit.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    teacher = load_teacher(NAME, None, STUDENT)
    assert torch.equal(teacher.net.model.blocks[5].mlp.fc1.weight, model.blocks[5].mlp.fc1.weight)
    assert "https://huggingface.co/timm/test_vit.r160_in1k" in teacher.note


@pytest.mark.usefixtures("offline")
def test_weights_that_are_not_there_are_said_to_be_absent_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="cannot be downloaded") as error, torch.device("meta"):
        load_teacher("vit_base_patch16_clip_quickgelu_224.openai", None, STUDENT)
    assert time.monotonic() - start < 5
    message = str(error.value)
    assert "https://huggingface.co/timm/vit_base_patch16_clip_224.openai" in message
    assert "--settings.teacher-weights FILE" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("vit_base_patch16_clip_225", re.escape("did you mean vit_base_patch16_clip_224")),
        ("resnet18", "resnet18 cannot be asked where it looks"),
        ("vit_base_patch16_siglip_224", "a class token"),  # pools by attention
        ("vit_base_patch16_18x2_224", "ordinary attention"),  # parallel blocks
        ("vit_dlittle_patch16_reg1_gap_256", "a class token"),  # a register, and no class token
        ("vit_base_r50_s16_224", "ordinary attention"),  # patches of a convolutional network
        ("runs/nowhere", "no such directory"),
    ],
)
def test_what_cannot_be_a_teacher(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_teacher(name, None, STUDENT)


def test_an_encoder_of_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = ViT(ViTConfig(192, 2, 3, 16, (48, 48), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    to_timm(ours, tmp_path / "exported")
    before = torch.get_rng_state()
    teacher = load_teacher(str(tmp_path / "exported"), None, STUDENT)
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.rand(2, 3, 32, 48)
    resized = F.interpolate(images, (64, 96), mode="bicubic", antialias=True).clamp(0, 1)
    tokens, attention = ours.attend(ours.normalise(resized))
    found = teacher.attend(images, (4, 6))
    torch.testing.assert_close(found[0], tokens[:, 1:])
    torch.testing.assert_close(found[1], attention)
    with pytest.raises(ValueError, match="takes no weights from a file"):
        load_teacher(str(tmp_path / "exported"), "w.pth", STUDENT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a run"):
        load_teacher(str(tmp_path / "empty"), None, STUDENT)

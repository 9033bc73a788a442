"""What can be said for WHERE: files of several networks, models of timm, directories; a clear line for all else."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskery.cli import main
from maskery.exporters.export import export_to
from maskery.exporters.model import ExportModel
from maskery.nn.vit import ViT, ViTConfig
from maskery.weights.load import load_encoder
from maskery.weights.locate import open_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLOSED = "http://127.0.0.1:9"  # nobody answers there


def official(file: str, of: str) -> dict[str, Tensor]:
    """A state dict of the reference code under its own names."""
    tensors = load_file(FIXTURES / file)
    return {name.removeprefix(of): t for name, t in tensors.items() if name.startswith(of)}


def write_rc_mae(folder: Path) -> Path:
    """As the reference saves it: both networks twice, one of them as DistributedDataParallel names it, and options."""
    student, teacher = (official("rc_mae_official.safetensors", f"{who}_after/") for who in ("student", "teacher"))
    tree: dict[str, Any] = {
        "student": {f"module.{name}": t for name, t in student.items()},
        "teacher": teacher,
        "student_without_ddp": student,
        "teacher_without_ddp": teacher,
        "optimizer": {"state": {0: {"step": 4, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 1599,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="mae_vit_tiny_patch8", gamma=1.0, output_dir="here"),
    }
    file = folder / "checkpoint-1599.pth"
    torch.save(tree, file)
    return file


@pytest.fixture(scope="module")
def rc_mae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rc_mae(tmp_path_factory.mktemp("official"))


@pytest.fixture
def said() -> list[str]:
    return []


def with_timm(**args: Any) -> VisionTransformer:
    """A trained network, as far as anybody can tell."""
    torch.manual_seed(3)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 0}
    model = VisionTransformer(**sizes | args).eval().requires_grad_(False)
    for p in model.parameters():
        p.normal_(std=0.1)
    return model


def assert_same_features(encoder: ViT, model: nn.Module) -> None:
    images = encoder.normalise(torch.rand(2, encoder.config.channels, *encoder.config.image_size))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(images), model.forward_features(images), rtol=1e-5, atol=1e-5)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())


# ----------------------------------------------------------------------------------------------- several networks
def test_a_network_that_is_not_there(rc_mae_file: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no network 'techer'; it has: .*#student, .*#teacher"):
        open_weights(Path(f"{rc_mae_file}#techer"))
    for words in ("heads=x", "size=3", "mean=a:b", "colour=blue"):
        with pytest.raises(ValueError, match=f"after # stand .*not '{words}'"):
            open_weights(Path(f"{rc_mae_file}#{words}"))


def test_several_networks_and_none_of_them_the_usual_one(tmp_path: Path) -> None:
    state = with_timm().state_dict()
    tree = {f"module.{who}.{name}": t for who in ("base_encoder", "momentum_encoder") for name, t in state.items()}
    torch.save({"state_dict": tree}, tmp_path / "moco.pth.tar")
    with pytest.raises(ValueError, match=r"several networks, name one: .*#base_encoder, .*#momentum_encoder"):
        load_encoder(tmp_path / "moco.pth.tar")
    assert_same_features(load_encoder(tmp_path / "moco.pth.tar#base_encoder"), with_timm())


def test_a_number_sign_in_a_name_is_part_of_it(tmp_path: Path) -> None:
    save_file(with_timm().state_dict(), tmp_path / "run#3.safetensors")
    assert load_encoder(tmp_path / "run#3.safetensors").config.heads == 3
    assert load_encoder(tmp_path / "run#3.safetensors#heads=6").config.heads == 6


# ----------------------------------------------------------------------------------------------- timm and DINO
@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
def test_a_file_with_timms_names(tmp_path: Path, suffix: str, said: list[str]) -> None:
    model, file = with_timm(num_classes=7), tmp_path / f"w.{suffix}"
    save_file(model.state_dict(), file) if suffix == "safetensors" else torch.save(model.state_dict(), file)
    assert_same_features(load_encoder(file, said.append), model)
    assert said[0] == f"{file}: head left out"


@pytest.mark.parametrize("args", [{}, {"init_values": 0.1}])
def test_a_checkpoint_of_dino(tmp_path: Path, args: dict, said: list[str]) -> None:
    """DINO and DINOv2: both networks with their heads, and options."""
    model, file = with_timm(**args), tmp_path / "checkpoint.pth"
    teacher = {f"backbone.{name}": t for name, t in model.state_dict().items()} | {
        "backbone.mask_token": torch.zeros(1, 192)
    }
    heads = {"dino_head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2)}
    student = {f"module.{name}": t * 2 for name, t in (teacher | heads).items()}
    torch.save({"student": student, "teacher": teacher | heads, "dino_loss": {"center": torch.zeros(2)}}, file)
    assert_same_features(load_encoder(file, said.append), model)
    assert f"{file}: the teacher is taken, of student, teacher: #NAME takes another" in said
    assert f"{file}: mask_token left out" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"reg_tokens": 4}, "the network has register tokens"),
        ({"qk_norm": True}, "norms of queries and keys"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "no class token; only --init can do without"),
    ],
)
def test_networks_that_are_another_kind(tmp_path: Path, args: dict, words: str, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "w.safetensors"
    save_file(with_timm(**args).state_dict(), file)
    assert main(["export", str(file), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"maskery: {file}: ")
    assert words in error
    assert "\n" not in error


def test_something_else_entirely(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"no vision transformer: it has bn1.num_batches_tracked, .*, "):
        load_encoder(tmp_path / "w.safetensors")
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="it is empty"):
        load_encoder(tmp_path / "w.pth")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a hub that nobody can reach."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_of_timm_by_name(offline: Path, said: list[str]) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    repository = offline / f"models--timm--{name}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    encoder = load_encoder(Path(f"timm:{name}"), said.append)
    assert (encoder.config.heads, encoder.config.image_size, encoder.config.mean) == (3, (224, 224), (0.5,) * 3)
    assert_same_features(encoder, model)
    with pytest.raises(ValueError, match=f"ours is not what {name} is: their tokens differ by"):
        load_encoder(Path(f"timm:{name}#heads=6"))
    assert said[0].startswith(f"timm:{name}: weights from https://huggingface.co/timm/{name}")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("where", "words"),
    [
        (
            "timm:vit_base_patch16_224.mae",
            "get them from https://huggingface.co/timm/vit_base_patch16_224.mae and name",
        ),
        ("timm:vit_base_patch16_225.mae", "did you mean vit_base_patch16_224.mae?"),
        ("timm:resnet18", "resnet18 is not a vision transformer as ours is"),
        ("random:vit_base_patch16_clip_224", "a norm before its first block, as CLIP has it"),
        ("timm:vit_small_patch14_reg4_dinov2", "register tokens"),
        ("random:test_vit", "in a plain vision transformer of width 64"),  # its MLPs are three times as wide, not four
        ("timm:vit_wee_patch16_reg1_gap_256", "register tokens"),
        ("timm:vit_small_patch16_rope_ape_224", "computes something else than a plain"),  # its names do not show it
        ("timm:vit_base_patch32_siglip_gap_256", "computes something else than a plain"),  # GELU by tanh
    ],
)
def test_models_of_timm_that_are_not_here_or_are_another_kind(where: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        load_encoder(Path(where))
    assert "\n" not in str(e.value)


def test_a_random_model_is_always_the_same_and_leaves_the_generator_alone(said: list[str]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.device("meta"):  # as settings are checked
        one = open_weights(Path("random:vit_tiny_patch16_224"))
    assert torch.equal(torch.get_rng_state(), before)
    encoder = load_encoder(Path("random:vit_tiny_patch16_224"), said.append)
    assert same(dict(encoder.state_dict()), one.encoder("")[0])
    assert "RANDOM WEIGHTS" in said[0]


def test_directories_of_timm_and_ours(tmp_path: Path) -> None:
    rectangle = ViT(ViTConfig(48, 2, 3, 8, (32, 48), (0.1,), (0.2,))).eval()
    export_to("timm", ExportModel(rectangle), tmp_path / "ours")
    loaded = load_encoder(tmp_path / "ours")
    assert loaded.config == rectangle.config
    assert same(dict(loaded.state_dict()), dict(rectangle.state_dict()))
    assert load_encoder(tmp_path / "ours" / "model.safetensors").config == rectangle.config
    hub = tmp_path / "hub"  # as it is downloaded: without the arguments of the model
    hub.mkdir()
    model = with_timm(num_heads=2)
    save_file(model.state_dict(), hub / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    (hub / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "pretrained_cfg": cfg})
    )  # it has two heads
    encoder = load_encoder(hub)
    assert (encoder.config.heads, encoder.config.std) == (2, (0.25,) * 3)
    assert_same_features(encoder, model)

"""Weights from anywhere: the same features as where they come from, and a clear line where that cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import maskery
from maskery.cli import main
from maskery.inference.encoder import Encoder
from maskery.methods import METHODS
from maskery.methods.mae import MAE, MAEConfig
from maskery.methods.msa import MSA, MSAConfig
from maskery.methods.rc_mae import RCMAE, RCMAEConfig
from maskery.nn import masking
from maskery.nn.decoder import DecoderSize
from maskery.nn.positions import resize
from maskery.nn.vit import IMAGENET_MEAN, ViTConfig
from maskery.weights.load import adapt, image_config, load_encoder, open_weights, start_from
from maskery.weights.teacher import build_objective
from tests.commands.test_pretrain import short
from tests.methods.test_mae import relative
from tests.weights.test_locate import FIXTURES, assert_same_features, official, same, with_timm, write_rc_mae

VIT = ViTConfig(48, 3, 3, 8, (64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the reference's; images normalised already
DECODER = DecoderSize(32, 2, 4)


@pytest.fixture(scope="module")
def mae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("official") / "mae_visualize_vit_tiny.pth"
    torch.save({"model": official("mae_official.safetensors", "weights/")}, file)
    return file


@pytest.fixture(scope="module")
def rc_mae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rc_mae(tmp_path_factory.mktemp("official"))


@pytest.fixture
def said() -> list[str]:
    return []


def part(objective: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in objective.state_dict().items() if n.startswith(prefix)}


# ----------------------------------------------------------------------------------------------- official checkpoints
def test_the_official_mae_goes_on_where_it_was(mae_file: Path) -> None:
    reference = load_file(FIXTURES / "mae_official.safetensors")
    method = MAE(MAEConfig(norm_pix=False, decoder=DECODER), VIT)
    count = len(method.state_dict())
    assert start_from(method, mae_file) == f"started from {mae_file}: loaded {count} of {count} tensors"
    mask = masking.hide_highest(reference["noise"], 0.75)
    latent = method.encoder.encode(reference["images"], mask)
    assert relative(latent, reference["latent"]) < 1e-5
    assert relative(method.decoder(latent, mask), reference["pred"]) < 1e-5


def test_the_official_encoder_without_a_decoder(tmp_path: Path, said: list[str]) -> None:
    state = official("mae_official.safetensors", "weights/")
    encoder = {n: t for n, t in state.items() if not n.startswith(("decoder", "mask_token"))}
    file = tmp_path / "mae_pretrain_vit_tiny.pth"
    torch.save({"model": encoder}, file)
    method = MAE(MAEConfig(decoder=DECODER), VIT)
    assert start_from(method, file).endswith("; at random: decoder")
    assert same(part(method, "encoder."), encoder)
    with pytest.raises(ValueError, match=r"does not follow from a width of 48: append #heads=N"):
        load_encoder(file)
    loaded = load_encoder(Path(f"{file}#heads=3,size=64x64,mean=0:0:0,std=1:1:1"), said.append)
    assert loaded.config == VIT
    assert same(dict(loaded.state_dict()), encoder)
    assert not said
    assert load_encoder(Path(f"{file}#heads=3"), said.append).config.mean == IMAGENET_MEAN
    assert said == [f"{file}#heads=3: how its images were normalised is not known: ImageNet's mean and std are taken"]


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_student_and_teacher_of_the_official_rc_mae(rc_mae_file: Path, said: list[str], who: str) -> None:
    expected = official("rc_mae_official.safetensors", f"{who}_after/")
    loaded = load_encoder(Path(f"{rc_mae_file}#{who},heads=3"), said.append).state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.items())
    assert not any("is taken" in line for line in said)
    if who == "teacher":  # which is what the paper evaluates
        assert same(dict(load_encoder(Path(f"{rc_mae_file}#heads=3"), said.append).state_dict()), dict(loaded))
        assert f"{rc_mae_file}#heads=3: the teacher is taken, of student, teacher: #NAME takes another" in said
    method = MAE(MAEConfig(decoder=DECODER), VIT)
    start_from(method, Path(f"{rc_mae_file}#{who}"))
    assert "(the teacher is taken, of student, teacher: #NAME takes another)" in start_from(
        MAE(MAEConfig(decoder=DECODER), VIT), rc_mae_file
    )
    assert torch.equal(method.decoder.pred.weight, expected["decoder_pred.weight"])
    assert torch.equal(method.encoder.norm.bias, expected["norm.bias"])


def test_the_official_rc_mae_goes_on_with_both(rc_mae_file: Path) -> None:
    method = RCMAE(RCMAEConfig(decoder=DECODER), VIT)
    count = len(method.state_dict())
    assert start_from(method, rc_mae_file) == f"started from {rc_mae_file}: loaded {count} of {count} tensors"
    for who, net in (("student", method.student), ("teacher", method.teacher.net)):
        expected = official("rc_mae_official.safetensors", f"{who}_after/")
        assert torch.equal(net.encoder.blocks[2].mlp.fc2.weight, expected["blocks.2.mlp.fc2.weight"])
        assert torch.equal(net.decoder.blocks[1].attn.qkv.bias, expected["decoder_blocks.1.attn.qkv.bias"])
    one = RCMAE(RCMAEConfig(decoder=DECODER), VIT)
    start_from(one, Path(f"{rc_mae_file}#teacher"))  # asked for: both begin as the teacher
    assert same(part(one, "student."), part(method, "teacher.net."))


# ----------------------------------------------------------------------------------------------- Hugging Face
SIZES: dict[str, Any] = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 768}
SIZES |= {"image_size": 32, "patch_size": 8}


def saved(model: Any, folder: Path, **images: Any) -> Any:
    """As its users find it: trained, saved by the library, and with what prepares its images."""
    from transformers import ViTImageProcessor

    torch.manual_seed(4)
    for name, p in model.eval().requires_grad_(False).named_parameters():
        if "pos" not in name:
            p.normal_(std=0.1)
    model.save_pretrained(folder)
    if images:
        ViTImageProcessor(**images).save_pretrained(folder)
    return model


def test_vit_of_hugging_face(tmp_path: Path, said: list[str]) -> None:
    from transformers import ViTConfig as Config
    from transformers import ViTModel

    config = Config(**SIZES, layer_norm_eps=1e-3)  # so that it shows
    model = saved(ViTModel(config), tmp_path, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    encoder = load_encoder(tmp_path, said.append)
    assert (encoder.config.mean, encoder.config.std) == ((0.5,) * 3, (0.25,) * 3)
    x = encoder.normalise(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(x), model(x).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert said == [f"{tmp_path}: pooler left out"]
    note = start_from(MAE(MAEConfig(decoder=DECODER), encoder.config), tmp_path)
    assert "; adapted: pooler left out, eps of norms 0.001 -> 1e-06; at random: decoder" in note


def test_mae_of_hugging_face(tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    config = ViTMAEConfig(**SIZES, **sizes, decoder_intermediate_size=128, layer_norm_eps=1e-6)
    model = saved(ViTMAEForPreTraining(config), tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    method = MAE(MAEConfig(decoder=DECODER), ViTConfig(192, 2, 3, 8, (32, 32), (0.5,) * 3, (0.5,) * 3)).eval()
    count = len(method.state_dict())
    assert start_from(method, tmp_path) == f"started from {tmp_path}: loaded {count} of {count} tensors"
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 16)
    x, mask = method.encoder.normalise(images), masking.hide_highest(noise, 0.75)
    with torch.no_grad():
        theirs = model(x, noise=noise)
        torch.testing.assert_close(mask.hidden.float(), theirs.mask)
        torch.testing.assert_close(method.predict(x, mask), theirs.logits, rtol=1e-4, atol=1e-4)


def test_dinov2_of_hugging_face(tmp_path: Path, said: list[str]) -> None:
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {name: n for name, n in SIZES.items() if name != "intermediate_size"}
    model = saved(Dinov2Model(Dinov2Config(**sizes)), tmp_path / "plain")
    encoder = load_encoder(tmp_path / "plain", said.append)
    x = encoder.normalise(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(x), model(x).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert [line.split(": ")[1] for line in said] == [
        "LayerScale multiplied into the weights it scales",
        "mask_token left out",
        "how its images were normalised is not known",
    ]
    saved(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)), tmp_path / "registers")
    with pytest.raises(ValueError, match="register tokens"):
        load_encoder(tmp_path / "registers")


# ----------------------------------------------------------------------------------------------- to start from
def test_other_images_adapt_what_can_be_adapted(mae_file: Path) -> None:
    to = ViTConfig(48, 3, 3, 16, (32, 64), (0.4,), (0.2,))
    method = MAE(MAEConfig(decoder=DECODER), to)
    before = torch.get_rng_state()
    note = start_from(method, mae_file)
    assert torch.equal(torch.get_rng_state(), before)
    state = official("mae_official.safetensors", "weights/")
    assert "; adapted: channels 3 -> 1 (summed: a grey image in the place of all of them), patches 8 -> 16" in note
    assert "positions 8 x 8 -> 2 x 4 (bicubic)" in note
    assert note.endswith("; at random: decoder.pred")
    assert torch.equal(method.encoder.pos_embed, resize(state["pos_embed"], (8, 8), (2, 4)))
    assert torch.equal(method.decoder.pos_embed, resize(state["decoder_pos_embed"], (8, 8), (2, 4)))
    assert torch.equal(method.decoder.mask_token, state["mask_token"])


def test_a_decoder_of_another_size_is_left_at_random_and_said(mae_file: Path) -> None:
    method = MAE(MAEConfig(decoder=DecoderSize(32, 1, 4)), VIT)
    before = part(method, "decoder.")
    before = {name: t.clone() for name, t in before.items()}
    note = start_from(method, mae_file)
    assert note.endswith("; at random: decoder (there 32 wide, 2 blocks, 4 heads; here 32, 1, 4)")
    assert same(part(method, "decoder."), before)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_the_official_mae(mae_file: Path, method: str) -> None:
    config = METHODS[method].Config
    extra = {"teacher": "random:test_vit"} if method == "cmt-mae" else {}
    objective = build_objective(METHODS[method], config(decoder=DECODER, **extra), VIT)
    start_from(objective, mae_file)
    state = official("mae_official.safetensors", "weights/")
    for prefix in objective.encoders:
        assert torch.equal(part(objective, prefix)["blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
        if f"{prefix.removesuffix('encoder.')}decoder.embed.weight" in objective.state_dict():
            taken = part(objective, f"{prefix.removesuffix('encoder.')}decoder.")["embed.weight"]
            assert torch.equal(taken, state["decoder_embed.weight"])


def test_another_architecture_is_one_line(tmp_path: Path) -> None:
    save_file(with_timm(depth=12).state_dict(), tmp_path / "w.safetensors")
    method = MAE(MAEConfig(decoder=DECODER), VIT)
    words = "width 192, 12 blocks, 3 heads; this run needs width 48, 3 blocks, 3 heads .--model vit-tiny is theirs.$"
    with pytest.raises(ValueError, match=words) as e:
        start_from(method, tmp_path / "w.safetensors")
    assert "\n" not in str(e.value)
    twelve = MAE(MAEConfig(decoder=DECODER), ViTConfig(192, 12, 6, 8, (32, 32)))  # the wrong number of heads
    with pytest.raises(ValueError, match="3 heads; this run needs width 192, 12 blocks, 6 heads"):
        start_from(twelve, tmp_path / "w.safetensors")


def test_without_a_class_token_it_begins_at_random(tmp_path: Path) -> None:
    model = with_timm(class_token=False, global_pool="avg", fc_norm=False)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    method = MAE(MAEConfig(decoder=DECODER), ViTConfig(192, 2, 3, 8, (32, 32)))
    assert start_from(method, tmp_path / "w.safetensors").endswith("; at random: encoder.cls_token, decoder")
    assert torch.equal(method.encoder.pos_embed[:, 1:], model.pos_embed)
    assert not method.encoder.pos_embed[:, 0].any()


def test_a_run_of_rc_mae_at_another_size_keeps_student_and_teacher_apart(scene_folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    maskery.pretrain(short(scene_folder, first, method="rc-mae", settings={"momentum": 0.5})[1:])
    assert image_config(first) is not None
    student, teacher = (load_encoder(Path(f"{first}#{who}")) for who in ("student", "teacher"))
    assert same(dict(load_encoder(first).state_dict()), dict(teacher.state_dict()))
    assert not torch.equal(student.blocks[0].mlp.fc1.weight, teacher.blocks[0].mlp.fc1.weight)
    assert image_config(Path(f"{first}#student")) is not None

    method = RCMAE(RCMAEConfig(decoder=DecoderSize(32, 1, 4)), ViTConfig(128, 6, 4, 4, (32, 32)))
    start_from(method, first)
    for net, source in ((method.student, student), (method.teacher.net, teacher)):
        assert torch.equal(net.encoder.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)
        assert torch.equal(net.encoder.patch_embed.proj.weight, adapt.patch(source.patch_embed.proj.weight, 4))
    checkpoint = first / "checkpoints" / (first / "checkpoints" / "last").read_text().strip()
    assert same(dict(load_encoder(checkpoint / "model.safetensors").state_dict()), dict(teacher.state_dict()))


def test_other_parts_of_a_run_go_on_under_their_names(scene_folder: Path, tmp_path: Path) -> None:
    maskery.pretrain(short(scene_folder, tmp_path / "first", method="msa")[1:])
    run = open_weights(tmp_path / "first")
    method = MSA(MSAConfig(decoder=DecoderSize(32, 1, 4)), ViTConfig(128, 6, 4, 8, (32, 32)))
    count = len(method.state_dict())
    assert start_from(method, tmp_path / "first").endswith(f"loaded {count} of {count} tensors")
    name = "feature_decoder.embed.weight"
    assert torch.equal(method.state_dict()[name], run.networks[run.part].others[name])


# ----------------------------------------------------------------------------------------------- the verbs
def test_the_python_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert isinstance(names["encoder"], Encoder)


def test_foreign_weights_in_every_verb(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mae_pretrain_vit_micro.pth"
    model = with_timm(embed_dim=128, depth=6, num_heads=4)
    torch.save({"model": model.state_dict()}, file)
    where, data = f"{file}#heads=4", str(scene_folder)
    assert main(["embed", where, "--data", data, "--out", str(tmp_path / "features.parquet")]) == 0
    assert main(["export", where, "--out", str(tmp_path / "timm")]) == 0
    assert_same_features(load_encoder(tmp_path / "timm"), model)
    assert main(["eval", "knn", where, "--data", data]) == 0
    capsys.readouterr()
    assert main(short(scene_folder, tmp_path / "run", init=where, patch_size=4)) == 0
    words = f"started from {where}: loaded 78 of 98 tensors; adapted: patches 8 -> 4 pixels"
    assert words in capsys.readouterr().err
    assert words in (tmp_path / "run" / "train.log").read_text()
    assert main(short(scene_folder, tmp_path / "none", init=str(tmp_path / "nothing.pth"))) == 1
    assert (
        "nothing.pth: there is nothing; a run, a file or directory of weights, or timm:NAME is wanted"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()

"""Files from anywhere: the networks in them, what is known about those, and what is refused without being run."""

import argparse
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maskery.weights.convert import Metadata
from maskery.weights.read import network_name, networks, read_directory, read_metadata, read_tensors

T = torch.zeros(2)


class Attack:
    """What somebody could put into a file: code that runs when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Quiet(torch.nn.Module):
    """A whole model, as torch.save(model) writes it: harmless here, and code all the same."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("zipped", "protocol"), [(True, 2), (True, 4), (True, 5), (False, 0), (False, 2), (False, 5)])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "pytorch_model.bin"])
def test_code_in_a_file_is_not_run(tmp_path: Path, protocol: int, zipped: bool, name: str) -> None:
    file, trace = tmp_path / name, tmp_path / "it was run"
    tree = {"model": {"patch_embed.proj.weight": T}, "args": Attack(trace)}
    if zipped:
        torch.save(tree, file, pickle_protocol=protocol)
    else:
        file.write_bytes(pickle.dumps(tree, protocol))
    with pytest.raises(ValueError, match=str(file)) as e:
        read_tensors(file)
    assert "\n" not in str(e.value)
    assert not trace.exists()
    if zipped and protocol == 2 and name != "weights.safetensors":
        assert "refused, and nothing in it was run: it asks for the Python object posix.mkdir" in str(e.value)
    torch.load(io.BytesIO(file.read_bytes()), weights_only=False) if zipped else pickle.loads(file.read_bytes())
    assert trace.exists()  # it would have


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(Quiet(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=f"asks for the Python object {Quiet.__module__}.Quiet"):
        read_tensors(tmp_path / "model.pth")


def test_options_of_a_training_run_are_only_values(tmp_path: Path) -> None:
    torch.save({"model": {"x": T}, "args": argparse.Namespace(lr=0.1, gpu=0)}, tmp_path / "checkpoint-799.pth")
    assert torch.equal(read_tensors(tmp_path / "checkpoint-799.pth")["model"]["x"], T)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "legacy.pth"])
@pytest.mark.parametrize("keep", [0, 1, 7, 100, 0.5, 0.99])
def test_files_that_are_cut_off(tmp_path: Path, name: str, keep: float) -> None:
    file, tensors = tmp_path / name, {f"x{i}": torch.randn(40) for i in range(10)}
    if name == "w.safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=name == "w.pth")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=str(file)) as e:
        read_tensors(file)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n", b"[1, 2]", bytes(3000), b"\x80\x02}q\x00."])
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_tensors(tmp_path / name)
    torch.save([T], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no weights by name but a list"):
        read_tensors(tmp_path / "list.pth")


def test_weights_in_several_files(tmp_path: Path) -> None:
    for i in range(2):
        save_file({f"x{i}": T + i}, tmp_path / f"model-{i}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"x{i}": f"../elsewhere/model-{i}.safetensors" for i in range(2)}}))
    assert {name: float(t[0]) for name, t in read_directory(tmp_path).items()} == {"x0": 0, "x1": 1}
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-1.safetensors: cannot be read as weights"):
        read_directory(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="it has no weight_map"):
        read_directory(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match=r"none of model.safetensors, .* is there"):
        read_directory(tmp_path)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("", ""),
        (".model.", ""),
        (".student_without_ddp.", "student"),
        (".student.module.", "student"),
        (".teacher.net.encoder.", "teacher"),
        (".state_dict.module.momentum_encoder.", "momentum_encoder"),
        (".teacher.backbone.", "teacher"),
        ("momentum.net.", "momentum"),
    ],
)
def test_what_tells_networks_apart(path: str, part: str) -> None:
    assert network_name(path) == part


def test_networks_wherever_they_are_with_the_decoders_that_are_theirs() -> None:
    ours, hf = "patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"
    mae = {ours: T, "norm.bias": T, "mask_token": T, "decoder_embed.weight": T, "decoder_blocks.0.norm1.bias": T}
    found = networks({"model": mae, "optimizer": {"state": {0: {"exp_avg": T}}}, "epoch": 3})
    assert found.keys() == {""}
    assert found[""].encoder.keys() == {ours, "norm.bias"}
    assert found[""].decoder.keys() == {"mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.bias"}

    found = networks({f"vit.{hf}": T, "decoder.decoder_embed.weight": T, "classifier.bias": T})
    assert found[""].encoder.keys() == {hf}
    assert found[""].decoder.keys() == {"decoder_embed.weight"}
    assert found[""].others.keys() == {"classifier.bias"}

    flat = {f"{who}encoder.{ours}": T + i for i, who in enumerate(("", "teacher.net."))}
    found = networks(flat | {"decoder.embed.weight": T, "teacher.net.decoder.embed.weight": T + 1, "h.bias": T})
    assert found.keys() == {"", "teacher"}
    for i, part in enumerate(("", "teacher")):
        assert float(found[part].encoder[ours][0]) == i
        assert float(found[part].decoder["embed.weight"][0]) == i
        assert found[part].others.keys() == {"h.bias"}

    both = {"student": {f"module.{ours}": T}, "teacher": {f"backbone.{ours}": T, "head.mlp.weight": T}}
    found = networks(both)
    assert found.keys() == {"student", "teacher"}
    assert found["teacher"].others.keys() == {"head.mlp.weight"}

    beside = networks({ours: T, "norm.bias": T, f"ema.{ours}": T + 1, "ema.norm.bias": T + 1})
    assert {part: x.encoder.keys() for part, x in beside.items()} == {p: {ours, "norm.bias"} for p in ("", "ema")}
    assert networks({"layer1.0.conv1.weight": T, "model": [T]}) == {}


def write(folder: Path, config: Any, images: Any = None) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if images is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


def test_facts_of_timm(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == Metadata()
    assert read_metadata(write(tmp_path, {})) == Metadata()
    cfg = {"input_size": [3, 160, 192], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    expected = Metadata(2, (160, 192), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert read_metadata(write(tmp_path, {"architecture": "test_vit", "pretrained_cfg": cfg})) == expected
    args = {"num_heads": 5, "img_size": 32}
    found = read_metadata(write(tmp_path, {"architecture": "test_vit", "model_args": args, "pretrained_cfg": cfg}))
    assert (found.heads, found.image_size) == (5, (32, 32))
    assert read_metadata(write(tmp_path, {"architecture": "resnet18"})).heads is None
    with pytest.raises(ValueError, match="its activation is quick_gelu"):
        read_metadata(write(tmp_path, {"model_args": {"act_layer": "quick_gelu"}}))


def test_facts_of_hugging_face(tmp_path: Path) -> None:
    config = {"model_type": "vit_mae", "num_attention_heads": 2, "image_size": [32, 48], "layer_norm_eps": 1e-12}
    config |= {"decoder_num_attention_heads": 4}
    expected = Metadata(2, (32, 48), None, None, 1e-12, 4)
    assert read_metadata(write(tmp_path, config)) == expected
    images: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255}
    found = read_metadata(write(tmp_path, config, images))
    assert (found.mean, found.std) == ((0.5,) * 3, (0.2,) * 3)
    found = read_metadata(write(tmp_path, config, images | {"rescale_factor": 2 / 255}))
    assert (found.mean, found.std) == ((0.25,) * 3, (0.1,) * 3)
    found = read_metadata(write(tmp_path, config, images | {"do_normalize": False}))
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="its hidden_act is quick_gelu"):
        read_metadata(write(tmp_path, config | {"hidden_act": "quick_gelu"}))


@pytest.mark.parametrize("config", ["{", "[]", '{"model_args": 3}', '{"pretrained_cfg": {"mean": "x"}}'])
def test_damaged_facts(tmp_path: Path, config: str) -> None:
    with pytest.raises(ValueError, match=r"config.json: (damaged|not what)"):
        read_metadata(write(tmp_path, config))

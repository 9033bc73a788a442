"""timm -> Maskery -> timm, and the preprocessing that goes with it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import maskery
from maskery.cli import main
from maskery.data.crops import resize_size
from maskery.exporters.export import export_to
from maskery.exporters.model import ExportModel
from maskery.exporters.timm_directory import crop_pct
from maskery.inference.preprocess import Preprocessing
from maskery.weights.load import load_encoder
from tests.classified import by_hand, exported


def test_equal_and_back(source: ExportModel, tmp_path: Path) -> None:
    assert export_to("timm", source, tmp_path / "out").difference < 1e-5
    assert load_encoder(tmp_path / "out").config == source.encoder.config


def test_there_and_back_through_maskery(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2, img_size=64, patch_size=8).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    maskery.export(tmp_path / "theirs.safetensors", tmp_path / "ours")
    again: Any = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.forward_features(x), theirs.forward_features(x))
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() == theirs.state_dict().keys()


def test_its_transform_is_our_preprocessing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "timm"
    assert main(["export", str(run), "--to", "timm", "--out", str(out)]) == 0
    assert "done; timm's features are ours to" in capsys.readouterr().out
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 72, 3), np.uint8))
    model: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.no_grad():
        theirs = model(transform(image)[None])
    ours = maskery.load(run).features(image, pool="class")
    torch.testing.assert_close(theirs, ours, rtol=0.02, atol=0.02)  # a level or two at single pixels
    flipped = maskery.load(run).features(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), pool="class")
    assert (flipped - ours).abs().max() > 5 * (theirs - ours).abs().max()


# --------------------------------------------------------------------------------------------------- classifiers
@pytest.mark.parametrize("kind", ["tuned", "probed"])
def test_a_classifier_whole(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(kind)
    maskery.export(run, tmp_path / "out")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        theirs = model(maskery.load(run).normalise(images))
    torch.testing.assert_close(theirs, by_hand(run, images), rtol=1e-4, atol=1e-4)
    assert model.pretrained_cfg["label_names"] == ["blue", "red"]
    assert (model.num_classes, model.global_pool) == (2, {"tuned": "avg", "probed": "token"}[kind])
    assert (
        isinstance(model.norm, torch.nn.Identity) is isinstance(model.fc_norm, torch.nn.LayerNorm) is (kind == "tuned")
    )
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7)(images).shape == (3, 7)
    encoder: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=0).eval()
    assert encoder(images).shape == (3, 128)


@pytest.mark.parametrize("more", [{"pooling": "mean_patch"}, {"layer": 3}, {"several": True}], ids=str)
def test_other_probes(more: dict[str, Any], tmp_path: Path) -> None:
    export_to("timm", exported("probe", **more), tmp_path / "out")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert len(model.blocks) == more.get("layer", 6)
    assert isinstance(model.fc_norm, torch.nn.Identity)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["problem_type"].startswith("multi" if "several" in more else "single")
    assert (".sigmoid()" in (tmp_path / "out" / "README.md").read_text()) is ("several" in more)


def test_what_timm_cannot_look_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"of the class token and the mean patch .* is none that timm has; take --to onnx"
    ):
        export_to("timm", exported("probe", pooling="both"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["tuned", "probed"])
def test_transformers_opens_it_too(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    transformers = pytest.importorskip("transformers")
    run: Path = request.getfixturevalue(kind)
    maskery.export(run, tmp_path / "out")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "blue", 1: "red"}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model(maskery.load(run).normalise(images)).logits
    torch.testing.assert_close(theirs, by_hand(run, images), rtol=1e-4, atol=1e-4)
    encoder = maskery.load(run)
    maskery.export(f"{run}#encoder", tmp_path / "encoder")
    features = transformers.AutoModel.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        tokens = features(encoder.normalise(images)).last_hidden_state
    torch.testing.assert_close(tokens, encoder.features(images, "tokens"), rtol=1e-4, atol=1e-4)


def test_its_transform_cuts_as_we_measure(tuned: Path, tmp_path: Path) -> None:
    maskery.export(tuned, tmp_path / "out")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 50, 3), np.uint8)).resize((40, 60))
    ours = maskery.classifier(tuned).preprocessing.input("", image)
    theirs = maskery.load(tuned).denormalise(transform(image))
    assert (theirs - ours).abs().max() < 0.02
    whole = Preprocessing(3, (32, 32)).input("", image)  # without the cut
    assert (whole - ours).abs().mean() > 0.02


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (96, 96), (64, 32), (40, 48), (518, 518)])
@pytest.mark.parametrize("share", [0.875, 0.9, 1.0])
def test_timm_rounds_as_we_do(size: tuple[int, int], share: float) -> None:
    wanted = resize_size(size, share)
    told = crop_pct(size, share)
    theirs = tuple(math.floor(side / told) for side in size)
    assert theirs == wanted if size[0] == size[1] else all(abs(a - b) <= 1 for a, b in zip(theirs, wanted, strict=True))
    assert told == pytest.approx(share, abs=0.03)
    assert crop_pct((224, 224), 0.875) == 0.875

"""timm -> Maskery -> timm, and the preprocessing that goes with it."""

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
from maskery.exports.export import export_to
from maskery.exports.source import Source
from maskery.weights import load_encoder


def test_equal_and_back(source: Source, tmp_path: Path) -> None:
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

"""Classifiers as plain tensors: read back they answer as before, of every kind; what is no such thing is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import maskery
from maskery.exporters.export import export_to
from maskery.inference.classifier import load_classifier
from tests.classified import NAMES, by_hand, exported

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuned": ("finetune", {}),
    "fine-tuned, averaged, several": ("finetune", {"average": 0.9, "several": True}),
    "fine-tuned class token": ("finetune", {"pooling": "class_token"}),
    "probe": ("probe", {"lrs": (1.0, 2.0), "head": 1}),
    "probe of the mean": ("probe", {"pooling": "mean_patch"}),
    "probe of both": ("probe", {"pooling": "both", "eval_share": 0.9}),
    "probe of a block": ("probe", {"layer": 3, "size": (32, 48)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(kind: str, tmp_path: Path) -> None:
    task, more = KINDS[kind]
    given = exported(task, **more)
    export_to("safetensors", given, tmp_path / "out")
    assert given.classifier is not None
    like, again = given.classifier, load_classifier(tmp_path / "out")
    images = torch.rand(3, 3, *like.size)
    torch.testing.assert_close(again.classify(images), like.classify(images), rtol=1e-5, atol=1e-5)
    assert again.classes == like.classes == NAMES
    assert (again.multilabel, again.size, again.crop_fraction) == (like.multilabel, like.size, like.crop_fraction)
    assert (again.images.bits, again.images.channels) == (8, 3)
    assert again.images.mean == pytest.approx(like.images.mean)


@pytest.mark.parametrize("to", ["safetensors", "timm"])
@pytest.mark.parametrize("kind", ["tuned", "probed"])
def test_runs_come_back_and_go_out_again(kind: str, to: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(kind)
    maskery.export(run, tmp_path / "out", to)
    maskery.export(tmp_path / "out", tmp_path / "again", "safetensors")
    images = torch.rand(2, 3, 32, 32)
    for place in (tmp_path / "out", tmp_path / "again", tmp_path / "again" / "model.safetensors"):
        torch.testing.assert_close(load_classifier(place).classify(images), by_hand(run, images), rtol=1e-4, atol=1e-4)


def test_its_encoder_alone(probed: Path, tmp_path: Path) -> None:
    maskery.export(probed, tmp_path / "out", "safetensors")
    images = torch.rand(2, 3, 32, 32)
    expected = maskery.load(probed).features(images)
    assert torch.equal(maskery.load(tmp_path / "out").features(images), expected)
    assert torch.equal(maskery.load(f"{tmp_path / 'out'}#encoder").features(images), expected)
    maskery.export(f"{tmp_path / 'out'}#encoder", tmp_path / "encoder", "safetensors")
    assert not [name for name in load_file(tmp_path / "encoder" / "model.safetensors") if name.startswith("head")]


@pytest.mark.parametrize("damage", ["label_names", "maskery", "pool", "head"])
def test_what_was_damaged_is_one_line(damage: str, tmp_path: Path) -> None:
    export_to("safetensors", exported("probe"), tmp_path / "out")
    file, config = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "config.json"
    facts, state = json.loads(config.read_text()), load_file(file)
    if damage == "label_names":
        facts[damage] = facts[damage][1:]
    elif damage == "maskery":
        facts[damage] = {}
    elif damage == "pool":
        facts["maskery"]["pool"] = "both"
    else:
        state.pop("head.bias")
    config.write_text(json.dumps(facts))
    save_file(state, file)
    with pytest.raises(ValueError, match="its classifier is not as `maskery export` writes it: ") as e:
        load_classifier(tmp_path / "out")
    assert "\n" not in str(e.value)

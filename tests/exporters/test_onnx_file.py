"""ONNX Runtime computes what we do, for any number and size of images; one graph for all these tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maskery
from maskery.exporters import onnx_file
from maskery.exporters.check import difference
from maskery.exporters.export import export_to
from maskery.exporters.model import ExportModel
from tests.classified import NAMES, by_hand, exported
from tests.exporters.conftest import RECTANGLE, network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the weights beside the graph, as they are above 2 GB."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "ONE_FILE", 1000)
        done = export_to("onnx", ExportModel(network(RECTANGLE)), out)
    assert done.difference < 1e-4
    return out


@pytest.fixture(scope="module")
def session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", [(1, 24, 40), (3, 24, 40), (5, 8, 8), (2, 64, 16), (1, 96, 160)])
def test_any_batch_and_size(session: Any, shape: tuple[int, int, int]) -> None:
    images = torch.rand(shape[0], 2, *shape[1:])
    with torch.no_grad():
        ours = network(RECTANGLE)(images)
    theirs = session.run(["class_token", "patch_tokens"], {"images": images.numpy()})
    for a, b in zip(ours, theirs, strict=True):
        assert difference(a, torch.from_numpy(b)) < 1e-4
    assert not np.allclose(theirs[0], session.run(None, {"images": images.numpy() * 0.5})[0])


def test_the_graph_says_what_it_is(folder: Path, session: Any) -> None:
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["maskery.mean"]) == [0.1, 0.3]
    assert json.loads(said["maskery.image_size"]) == [24, 40]
    assert "[0, 1]; the graph normalises" in said["maskery.input"]
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape[1] == 2
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "model.onnx.data", "README.md"}


def test_what_is_not_equal_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "TOLERANCE", 1e-12)
    with pytest.raises(ValueError, match="ONNX Runtime's tokens of 1 x 2 x 24 x 40 differ by"):
        export_to("onnx", ExportModel(network(RECTANGLE)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- classifiers
def test_a_fine_tuned_classifier(tuned: Path, tmp_path: Path) -> None:
    maskery.export(tuned, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["logits", "probabilities"]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["maskery.classes"]) == ["blue", "red"]
    assert said["maskery.crop_share"] == "0.875"
    for count in (1, 5):
        images = torch.rand(count, 3, 32, 32)
        logits, probabilities = (torch.from_numpy(a) for a in session.run(None, {"images": images.numpy()}))
        wanted = by_hand(tuned, images)
        torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(probabilities, wanted.softmax(1), rtol=1e-3, atol=1e-3)


def test_several_labels_of_both_tokens(tmp_path: Path) -> None:
    named = exported("probe", several=True, pooling="both")
    export_to("onnx", named, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert named.classifier is not None
    images = torch.rand(2, 3, 32, 32)
    logits, probabilities = session.run(None, {"images": images.numpy()})
    assert difference(named.classifier.classify(images), torch.from_numpy(logits)) < 1e-4
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["maskery.classes"]) == list(NAMES)
    assert session.run(None, {"images": np.zeros((1, 3, 64, 40), np.float32)})[0].shape == (1, 3)

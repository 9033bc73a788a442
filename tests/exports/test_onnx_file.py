"""ONNX Runtime computes what we do, for any number and size of images; one graph for all these tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskery.exports import onnx_file
from maskery.exports.check import difference
from maskery.exports.export import export_to
from maskery.exports.source import Source
from tests.exports.conftest import RECTANGLE, network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the weights beside the graph, as they are above 2 GB."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "ONE_FILE", 1000)
        done = export_to("onnx", Source(network(RECTANGLE)), out)
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
        export_to("onnx", Source(network(RECTANGLE)), tmp_path / "out")
    assert not list(tmp_path.iterdir())

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskery.pictures.segments import colours

from ..evaluation import Evaluation, periodic, result_of


@pytest.fixture(scope="module")
def learned(detection: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    options = ["--settings.width", "32", "--settings.rois", "32", "--settings.scale", "1", "1", "--steps", "90"]
    options += ["--batch-size", "4", "--watch.looks", "1", "--optim.base-lr", "0.096", "--settings.layer-decay", "1"]
    options += ["--optim.min-lr", "0.0003", "--settings.drop-path", "0", "--json", str(out.parent / "own.json")]
    return detection.run(out, *options)


def test_training_beats_random_weights(learned: Path) -> None:
    before, after = periodic(learned, "box_ap50")
    assert (before["step"], after["step"]) == (0, 90)
    assert before["box_ap50"] < 0.1
    assert after["box_ap50"] > before["box_ap50"] + 0.12
    assert after["mask_ap50"] > before["mask_ap50"] + 0.08
    result = result_of(learned)
    assert result["numbers"]["box_ap50"] == pytest.approx(after["box_ap50"])  # all held-out images are few
    assert list(result["numbers"])[:3] == ["box_ap", "box_ap50", "box_ap75"]
    assert {"mask_ap", "mask_ap_small", "box_recall"} <= set(result["numbers"])
    assert [row["class"] for row in result["tables"]["classes"]] == ["object"]
    assert result["tables"]["classes"][0]["box_ap"] == pytest.approx(result["numbers"]["box_ap"])
    assert result["counts"] == {"train": 32, "tune": 0, "held_out": 8, "classes": 1}
    assert "Mask R-CNN on the simple feature pyramid: 90 steps" in result["protocol"]
    assert json.loads((learned.parents[1] / "own.json").read_text())["numbers"] == result["numbers"]


def test_pictures_show_truth_and_prediction(learned: Path) -> None:
    assert sorted(p.name for p in (learned / "samples").iterdir()) == ["step-00000000.png", "step-00000090.png"]
    with Image.open(learned / "evals" / "detections.png") as picture:
        assert picture.size[0] > 3 * 160
        colour = tuple((colours(1)[0] * 255).round().int().tolist())
        pixels = np.array(picture.convert("RGB")).astype(int)
        assert (abs(pixels - colour).max(2) <= 1).sum() > 100  # boxes are drawn

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskery.demo import scenes

from ..evaluation import Evaluation, periodic, result_of


@pytest.fixture(scope="module")
def learned(segmentation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    options = ["--steps", "40", "--batch-size", "8", "--watch.looks", "1", "--json", str(out.parent / "own.json")]
    return segmentation.run(out, *options)


def test_training_beats_random_weights(learned: Path) -> None:
    before, after = periodic(learned, "miou")
    assert (before["step"], after["step"]) == (0, 40)
    assert before["miou"] < 0.45  # one class everywhere gives 0.43
    assert after["miou"] > before["miou"] + 0.15
    result = result_of(learned)
    assert result["numbers"]["miou"] == pytest.approx(after["miou"])  # all held-out images are few
    assert list(result["numbers"]) == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert [row["class"] for row in result["tables"]["classes"]] == ["background", "object"]
    assert all(re.fullmatch("#[0-9a-f]{6}", row["colour"]) for row in result["tables"]["classes"])
    assert result["counts"] == {"train": 43, "tune": 5, "held_out": 12, "classes": 2}
    assert "all-MLP decoder: 40 steps, batch 8" in result["protocol"]
    assert json.loads((learned.parents[1] / "own.json").read_text())["numbers"] == result["numbers"]


def test_pictures_show_truth_and_prediction(learned: Path) -> None:
    assert sorted(p.name for p in (learned / "samples").iterdir()) == ["step-00000000.png", "step-00000040.png"]
    with Image.open(learned / "evals" / "segments.png") as picture:
        assert picture.size[0] > 3 * 320
        assert len(set(picture.convert("RGB").resize((60, 60)).get_flattened_data())) > 100


def test_another_mask_is_another_evaluation(segmentation: Evaluation, tmp_path: Path) -> None:
    data = scenes.write_masks(tmp_path / "few", 8, size=16, holdout=0.5)
    mask, fingerprints = data / "masks" / "val" / "scene-000006.png", []
    for name in ("a", "b"):
        member = segmentation.run(tmp_path / name, "--steps", "1", "--watch.looks", "0", data=data)
        fingerprints.append(result_of(member)["fingerprint"])
        values = np.array(Image.open(mask))
        values[0, 5] = 1 - (values[0, 5] > 0)
        Image.fromarray(values).save(mask)
    assert fingerprints[0] != fingerprints[1]

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maskery.demo.coco import write_coco
from maskery.tasks.detection.objective import Detect, DetectConfig
from maskery.tasks.labels import LabelsConfig
from tests.bad_input import BadInput, assert_refused, misused

from ..evaluation import Evaluation
from ..runs import VIT, opened


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Six scenes of 32 pixels, classes by shape, which a test may spoil."""
    return write_coco(tmp_path / "few", 6, size=32, holdout=0.34)


def change(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change every file of annotations."""

    def spoil(root: Path) -> None:
        for file in root.glob("annotations/*.json"):
            tree = json.loads(file.read_text())
            edit(tree)
            file.write_text(json.dumps(tree))

    return spoil


without_shapes = change(lambda tree: [a.pop("segmentation") for a in tree["annotations"]])
BAD = [
    BadInput("no objects: looked for annotations/instances_tr", lambda root: shutil.rmtree(root / "annotations")),
    BadInput("0 training|is held out|none is left to train on", lambda root: shutil.rmtree(root / "train")),
    BadInput("no object in any of the 4 training", change(lambda tree: tree["annotations"].clear())),
    BadInput(r"\d+ objects have only a box, and --settings.masks on", without_shapes, ["--settings.masks", "on"]),
    BadInput("--shots counts images of a class, and there are many in one", options=["--shots", "2"]),
    BadInput(r"--settings.scale is \(2.0, 1.0\)", options=["--settings.scale", "2", "1"]),
    BadInput("global-blocks is 99", options=["--settings.window", "3", "--settings.global-blocks", "99"]),
    BadInput("detection has no such loss", options=["--settings.labels.balanced"]),
    misused("masks", "--settings.masks", "maybe"),
    misused("detect has no quick form", "--quick"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.message[-30:])
def test_unusable_data(bad: BadInput, detection: Evaluation, few: Path, tmp_path: Path, capsys: Any) -> None:
    bad.spoil(few)
    assert_refused(detection.command(tmp_path / "o", data=few), bad, capsys, tmp_path / "o")


def test_boxes_alone_are_enough(few: Path) -> None:
    without_shapes(few)
    data = opened(few, objects=True)
    settings, data = Detect.prepare(DetectConfig(width=16, rois=16), data)
    assert settings.masks == "off"
    assert len(data.train) == 4
    task = Detect(settings, VIT).eval()
    assert set(task.validate(data, 2, torch.float32, 0)) == {"box_ap", "box_ap50"}
    assert task.picture_targets(data, data.held_out)["label"].bits.shape[2] == 0
    settings, data = Detect.prepare(DetectConfig(labels=LabelsConfig(share="50%", draw=1)), replace(data))
    assert len(data.train) == 2


def test_truth_is_cut_as_pictures_are(few: Path) -> None:
    data = opened(few, objects=True)
    settings, data = Detect.prepare(DetectConfig(width=16, rois=16), data)
    label = Detect(settings, VIT).picture_targets(data, data.held_out)["label"]
    boxes = data.images.source.objects(int(data.held_out[0])).boxes  # type: ignore[attr-defined]
    assert label.boxes[0, : len(boxes)].tolist() == boxes.tolist()

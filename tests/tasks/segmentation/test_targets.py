import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskery.data.masks import VOID
from maskery.demo import scenes
from maskery.tasks.labels import LabelsConfig, balanced_weights
from maskery.tasks.segmentation import targets
from maskery.tasks.segmentation.objective import Segment, SegmentConfig
from tests.bad_input import BadInput, assert_refused, misused

from ..evaluation import Evaluation
from ..runs import NAMES, VIT, opened


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Eight scenes, four held out, which a test may spoil."""
    return scenes.write_masks(tmp_path / "few", 8, size=16, holdout=0.5)


def prepared(where: Path, size: tuple[int, int] = (16, 16), **settings: Any) -> tuple[Any, Any]:
    data = opened(where, size, masks=True)
    return targets.prepare(SegmentConfig(**settings), data)


def repaint(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change one of the masks."""

    def spoil(root: Path) -> None:
        file = root / "masks" / "val" / "scene-000006.png"
        Image.fromarray(change(np.array(Image.open(file)))).save(file)

    return spoil


def one_class(root: Path) -> None:
    (root / "classes.txt").unlink()
    for file in root.glob("masks/*/*.png"):
        Image.fromarray(np.where(np.array(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)


def too_many(root: Path) -> None:
    (root / "classes.txt").unlink()
    for i, file in enumerate(root.glob("masks/*/*.png")):
        Image.fromarray((256 * i + np.arange(256)).reshape(16, 16).astype(np.uint16)).save(file)


MASK = r"the mask of images/val/scene-000006\.png"
BAD = [
    BadInput(MASK + " has the value 9: the 8 classes have", repaint(lambda m: np.where(m == 0, 9, m).astype(np.uint8))),
    BadInput(MASK + " has 16 x 12 pixels, the image 16 x 16", repaint(lambda m: m[:12])),
    BadInput(MASK + " is a picture of colours", repaint(lambda m: np.stack([m] * 3, 2))),
    BadInput(r"the value 0 beside void \(255\): there is nothing to tell apart; --settings.ignore-index", one_class),
    BadInput("the masks have 2,047 different values: values are classes, at most 1,000", too_many),
    BadInput("no images with masks: looked for images/ beside masks/", lambda root: shutil.rmtree(root / "masks")),
    BadInput("4 training and 0 held-out images have masks", lambda root: shutil.rmtree(root / "masks" / "val")),
    BadInput("--shots counts images of a class, and a mask has many", options=["--shots", "2"]),
    misused("inference", "--settings.inference", "half"),
    misused("segment has no quick form", "--quick"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.message[-30:])
def test_unusable_masks(bad: BadInput, segmentation: Evaluation, few: Path, tmp_path: Path, capsys: Any) -> None:
    bad.spoil(few)
    assert_refused(segmentation.command(tmp_path / "o", data=few), bad, capsys, tmp_path / "o")


def test_a_test_split_beside_a_val_split_is_held_out_where_it_has_masks(few: Path) -> None:
    for i, kind in itertools.product((6, 7), ("images", "masks")):
        (few / kind / "test").mkdir(exist_ok=True)
        (few / kind / "val" / f"scene-{i:06d}.png").rename(few / kind / "test" / f"scene-{i:06d}.png")
    _, data = prepared(few)
    names = data.images.source.names
    assert {names[i].split("/")[1] for i in data.held_out.tolist()} == {"test"}
    assert {names[i].split("/")[1] for i in data.validation.tolist()} == {"val"}
    shutil.rmtree(few / "masks" / "test")
    _, data = prepared(few)
    assert {names[i].split("/")[1] for i in data.held_out.tolist()} == {"val"}
    assert len(data.validation) == 0


def test_another_void(few: Path) -> None:
    (few / "classes.txt").unlink()
    settings, _ = prepared(few, ignore_index=3)
    assert "3" not in settings.labels.names
    assert settings.labels.names[:3] == ("0", "1", "2")


def test_foreground_of_255(few: Path) -> None:
    one_class(few)
    settings, _ = prepared(few, ignore_index=None)
    assert (settings.labels.names, settings.ids) == (("0", "255"), (0, 255))


@pytest.mark.parametrize("layout", ["as asked for", "ade20k"])
def test_classes_that_count_from_one(layout: str, few: Path) -> None:
    (few / "classes.txt").write_text("\n".join(scenes.SHAPES))
    if layout == "ade20k":
        for kind in ("images", "masks"):
            (few / kind / "train").rename(few / kind / "training")
            (few / kind / "val").rename(few / kind / "validation")
        (few / "masks").rename(few / "annotations")
    settings, data = prepared(few, reduce_zero_label="auto" if layout == "ade20k" else "on")
    assert settings.ids == (1, 2, 3, 4, 5, 6, 7)
    label = Segment(settings, VIT).picture_targets(data, data.held_out)["label"]
    mask = scenes.scene(0, int(data.held_out[0]), 16).mask
    enlarged = np.kron(mask, np.ones((2, 2), int))
    assert label[0].tolist() == (enlarged.astype(int) - 1).tolist()  # 0 is void, and that is -1


def test_images_without_masks_are_left_out_and_counted(few: Path) -> None:
    (few / "masks" / "train" / "scene-000001.png").unlink()
    _, data = prepared(few)
    assert len(data.train) == 3
    assert "1 images have no mask and are left out" in data.images.source.notes
    _, data = prepared(few, labels=LabelsConfig(share="50%", draw=1))
    assert len(data.train) == 2


def test_the_street_scenes(shared_data: Path) -> None:
    settings, data = prepared(shared_data / "camvid_240x180.parquet", (180, 240), ignore_index=11)
    assert settings.ids == tuple(range(11))
    assert (len(data.train), len(data.held_out)) == (367, 101)


@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 3.0)])
def test_the_loss_by_hand(weights: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    logits, y, config = torch.randn(2, 3, 4, 4), torch.randint(VOID, 3, (2, 8, 8)), replace(NAMES, weights=weights)
    enlarged, total = F.interpolate(logits, (8, 8), mode="bilinear"), 0.0
    for b, row, column in np.ndindex(2, 8, 8):
        c = int(y[b, row, column])
        if c != VOID:
            own = -torch.log_softmax(enlarged[b, :, row, column], 0)[c]
            total += float(own) * (weights[c] if weights else 1.0) / y.numel()
    loss = float(targets.loss(logits, y, config))
    assert loss == pytest.approx(total, rel=1e-5)
    halves = [float(targets.loss(logits[i : i + 1], y[i : i + 1], config)) for i in (0, 1)]
    assert loss == pytest.approx(sum(halves) / 2, rel=1e-5)  # micro-batches
    assert float(targets.loss(logits, torch.full_like(y, VOID), NAMES)) == 0


def test_rare_classes_weigh_more() -> None:
    counts = np.array([800, 100, 100, 0])
    weights = np.array(balanced_weights(counts, counts / counts.sum()))
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-5)
    assert weights[1] / weights[0] == pytest.approx(8, rel=1e-4)
    assert weights[3] == 0
    counts = np.array([10**6, 1])
    common, rare = balanced_weights(counts, counts / counts.sum(), targets.MAX_WEIGHT)
    assert rare / common == pytest.approx(20, rel=1e-4)  # 10 to a half

"""COCO's json: what is read, what is left out and counted, what ends with one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskery.config import ImagesConfig
from maskery.data.sources.coco import CocoSource
from maskery.data.sources.open import open_source
from maskery.data.sources.rle import encode_mask, shape_mask, usable_shape
from maskery.data.sources.source import split_indices
from maskery.demo.coco import write_coco
from maskery.demo.scenes import SHAPES, scene

TRAIN = "annotations/instances_train.json"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", 10, size=32)


def change(root: Path, edit: Callable[[dict[str, Any]], Any], file: str = TRAIN) -> None:
    tree = json.loads((root / file).read_text())
    edit(tree)
    (root / file).write_text(json.dumps(tree))


def test_scenes_come_back_as_they_were(coco: Path) -> None:
    source = open_source(coco, ImagesConfig(objects=True))
    assert isinstance(source, CocoSource)
    assert source.object_classes == SHAPES
    assert [len(part) for part in split_indices(source, 0.05)] == [8, 2]
    assert source.names[9] == "val/scene-000009.png"
    assert source.without_shape(np.arange(10)) == 0
    for i in range(10):
        objects, one = source.objects(i), scene(0, i, 32)
        assert objects.boxes.tolist() == one.boxes.tolist()
        assert objects.classes.tolist() == one.kinds.tolist()
        for k, shape in enumerate(objects.shapes):
            assert np.array_equal(shape_mask(shape, (32, 32)), one.instances == k + 1)
            assert objects.areas[k] == (one.instances == k + 1).sum()


def test_other_layouts(coco: Path) -> None:
    for split in ("train", "val"):
        (coco / f"annotations/instances_{split}.json").rename(coco / f"{split}.json")
    assert len(open_source(coco, ImagesConfig(objects=True))) == 10
    (coco / "images").mkdir()
    for split in ("train", "val"):
        shutil.move(coco / split, coco / "images" / split)
    assert len(open_source(coco, ImagesConfig(objects=True))) == 10
    (coco / "train.json").rename(coco / "mine.json")
    with pytest.raises(ValueError, match=r"no objects: looked for annotations/instances_train\*.json"):
        open_source(coco, ImagesConfig(objects=True))
    source = open_source(coco, ImagesConfig(objects=True, train_json="mine.json", val_json="val.json"))
    assert split_indices(source, 0.0)[1].tolist() == [8, 9]
    (coco / "val.json").unlink()
    assert open_source(coco, ImagesConfig(objects=True, train_json="mine.json")).splits is None


def test_what_cannot_be_used_is_left_out_and_counted(coco: Path) -> None:
    (coco / "train" / "scene-000000.png").unlink()
    lost = len(scene(0, 0, 32).kinds)

    def spoil(tree: dict[str, Any]) -> None:
        first = next(a for a in tree["annotations"] if a["image_id"] == 1)
        good = first | {"image_id": 2}
        tree["annotations"] = [a for a in tree["annotations"] if a["image_id"] not in (1, 2)]
        tree["annotations"] += [
            good,
            good | {"category_id": 99},
            good | {"bbox": [40, 40, 5, 5]},
            good | {"bbox": [4, 4, 0, 5]},
            good | {"bbox": [4, 4, 5]},
            good | {"bbox": [20, 20, 50, 50]},
            good | {"image_id": 12345},
            good | {"iscrowd": 1},
            good | {"segmentation": [[1, 2, 3, 4]]},
            good | {"segmentation": {"size": [9, 9], "counts": [81]}},
        ]

    change(coco, spoil)
    source = open_source(coco, ImagesConfig(objects=True))
    said = "\n".join(source.notes)
    assert "1 images that the json names do not exist and are left out" in said
    assert f"{lost:,} objects of images that do not exist are left out" in said
    assert "1 images have no object and are kept: there is nothing to find in them" in said
    assert "1 crowd regions are not learned from" in said
    assert "1 objects have a category that nobody named" in said
    assert "1 boxes lie outside their image" in said
    assert "1 boxes are empty" in said
    assert "1 objects have no box of four numbers" in said
    assert "1 boxes reach out of their image and are cut at its edge" in said
    assert "1 objects belong to no image of their file" in said
    assert "2 shapes cannot be drawn" in said
    assert isinstance(source, CocoSource)
    objects = source.objects(1)
    assert len(objects.boxes) == 5
    assert objects.boxes[1].tolist() == [20, 20, 32, 32]
    assert objects.crowd.tolist() == [False, False, True, False, False]
    assert source.counts[:2].tolist() == [0, 4]
    assert source.without_shape(np.array([1])) == 2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.pop("categories"), "it has no list 'categories'"),
        (lambda t: t["categories"][0].update(name="round"), "category 1 is 'disc' here and 'round' before"),
        (lambda t: t["categories"][0].update(id="1"), "a category without a whole number as its id"),
        (lambda t: t["images"].append(t["images"][0]), "two images have the id 0"),
        (lambda t: t["images"].append(t["images"][0] | {"id": 77}), "train/scene-000000.png is named twice"),
        (lambda t: t["images"][0].pop("height"), "an image without id, file_name, height or width"),
        (lambda t: t["images"][0].update(width=0), "scene-000000.png has 0 x 32 pixels"),
    ],
)
def test_files_that_make_no_sense(coco: Path, edit: Callable[[dict[str, Any]], Any], said: str) -> None:
    change(coco, edit)
    with pytest.raises(ValueError, match=said):
        open_source(coco, ImagesConfig(objects=True))


def test_classes_may_be_named_by_one_of_the_files(coco: Path) -> None:
    change(coco, lambda tree: tree["categories"].clear())
    assert len(open_source(coco, ImagesConfig(objects=True))) == 10
    change(coco, lambda tree: tree["categories"].clear(), "annotations/instances_val.json")
    with pytest.raises(ValueError, match="it has no categories: there is nothing to tell apart"):
        open_source(coco, ImagesConfig(objects=True))


def test_damaged_and_missing_files(coco: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.json: no such file \(--images.val-json\)"):
        open_source(coco, ImagesConfig(objects=True, val_json="nowhere.json"))
    shutil.copy(coco / TRAIN, coco / "annotations" / "instances_train2014.json")
    with pytest.raises(ValueError, match=r"which one\? --images.train-json names it"):
        open_source(coco, ImagesConfig(objects=True))
    (coco / "annotations" / "instances_train2014.json").unlink()
    for file in coco.glob("*/*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"none of its images exists: looked for scene-000000\.png and others"):
        open_source(coco, ImagesConfig(objects=True))
    (coco / TRAIN).write_text('{"images": [')
    with pytest.raises(ValueError, match="damaged json in line 1"):
        open_source(coco, ImagesConfig(objects=True))


def test_polygons_and_run_lengths() -> None:
    square = shape_mask([[2, 3, 6, 3, 6, 8, 2, 8]], (10, 12))
    expected = np.zeros((10, 12), np.uint8)
    expected[3:8, 2:6] = 1
    assert np.array_equal(square, expected)
    assert np.array_equal(shape_mask(encode_mask(square), (10, 12)), expected)
    assert usable_shape([[1, 2, 3, 4], [2, 3, 6, 3, 6, 8]], (10, 12)) == [[2, 3, 6, 3, 6, 8]]
    assert usable_shape({"size": [10, 12], "counts": [100]}, (10, 12)) is None
    assert usable_shape({"size": [10, 12], "counts": [100, 20]}, (10, 12)) is not None


def test_photographs(shared_data: Path) -> None:
    source = open_source(shared_data / "coco_small", ImagesConfig(objects=True))
    assert source.notes[0] == "746 objects of 80 classes in 100 images"

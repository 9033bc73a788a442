"""Boxes and masks stay on their objects, whatever happens to the image."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.crops import CenterCrop, ViewBox
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.loader import eval_batches, train_batches
from maskery.data.object_targets import (
    NO_OBJECT,
    FittingImage,
    ObjectSampler,
    ObjectTargets,
    ScaleJitter,
    check_size,
    object_targets,
    visible_objects,
)
from maskery.data.sources.open import open_source
from maskery.data.train_dataset import SamplingPlan, TrainDataset, uniforms
from maskery.demo.coco import write_coco
from maskery.microbatch import slice_batch

MEAN = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of other sizes and shapes, each black with one white rectangle and a grey one."""
    root, rng = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(0)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i in range(8):
        height, width = (int(n) for n in rng.integers(40, 90, 2))
        pixels = np.zeros((height, width, 3), np.uint8)
        for level, m in ((120, 1), (255, 2)):
            y, x = (int(n) for n in rng.integers(0, 20, 2))
            x += 20 * (m - 1)
            h, w = (int(n) for n in rng.integers(10, 20, 2))
            if m == 1:
                x, w = 0, min(w, 18)
            y, x = min(y, height - h), min(x, width - w)
            pixels[y : y + h, x : x + w] = level
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            facts = {"image_id": i, "category_id": m, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append(facts | {"id": len(annotations) + 1, "segmentation": [corners]})
        Image.fromarray(pixels).save(root / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
    names = [{"id": 1, "name": "grey"}, {"id": 2, "name": "white"}]
    tree = {"images": images, "annotations": annotations, "categories": names}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    return root


def images_of(root: Path) -> Images:
    return Images(open_source(root, ImagesConfig(objects=True)), channels=3, bits=8, pages="first", min_side=8)


def jittered(
    root: Path, jitter: ScaleJitter, batch: int = 8, masks: bool = True, size: tuple[int, int] = (64, 48)
) -> TrainDataset:
    images, target = images_of(root), object_targets(images_of(root).source, size, masks)
    sampler = ObjectSampler(jitter, fill=MEAN)
    return TrainDataset(images, np.arange(len(images)), SamplingPlan(size, 0, batch), sampler, target)


def fitted(root: Path, size: tuple[int, int], batch: int) -> dict[str, Any]:
    images = images_of(root)
    crop, check = FittingImage(size, fill=MEAN), partial(check_size, images.source)
    return next(iter(eval_batches(EvalDataset(images, np.arange(len(images)), crop, batch, target=check))))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    "jitter", [ScaleJitter(), ScaleJitter((0.5, 0.5), 0.0), ScaleJitter((1.0, 1.0), 1.0), ScaleJitter((2.0, 2.0), 0.5)]
)
def test_boxes_are_where_the_rectangles_are(rectangles: Path, jitter: ScaleJitter, masks: bool) -> None:
    seen = 0
    for k in range(4):
        item = jittered(rectangles, jitter, masks=masks)[k]
        targets = item["label"]
        for i, image in enumerate(item["views"][0]):
            h, w = targets.extent[i].tolist()
            outside = torch.ones(64, 48, dtype=torch.bool)
            outside[:h, :w] = False
            assert (image[:, outside] == 128).all()  # the mean colour, where there is no image
            inside = image[0].clone()
            inside[outside] = 0
            found = targets.masks(i, (64, 48)) if masks else None
            for j, m in enumerate(targets.classes[i].tolist()):
                if m == NO_OBJECT:
                    assert not targets.boxes[i, j].any()
                    continue
                left, top, right, bottom = targets.boxes[i, j].tolist()
                assert 0 <= left < right <= w
                assert 0 <= top < bottom <= h
                lit = (inside > 190) if m else (inside > 60) & (inside <= 190)
                if right - left < 4 or bottom - top < 4:  # all edge
                    continue
                seen += 1
                middle = lit[int(top) + 2 : int(bottom) - 1, int(left) + 2 : int(right) - 1]
                assert middle.float().mean() > 0.9 or m == 0  # the white one lies in front
                rows, columns = torch.nonzero(inside > 190, as_tuple=True)
                if m == 1:
                    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                    for edge, expected in zip((left, top, right, bottom), edges, strict=True):
                        assert abs(edge - float(expected)) <= 1.5
                if found is not None:
                    own = found[j].bool()
                    assert own.sum() > 0.8 * (right - left) * (bottom - top)
                    ys, xs = torch.nonzero(own, as_tuple=True)
                    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == [left, top, right, bottom]
    assert seen > 10


def test_a_flip_mirrors_everything(rectangles: Path) -> None:
    plain, mirrored = (jittered(rectangles, ScaleJitter((1.0, 1.0), flip))[0] for flip in (0.0, 1.0))
    for i in range(8):
        h, w = plain["label"].extent[i].tolist()
        assert torch.equal(plain["views"][0][i, :, :h, :w].flip(-1), mirrored["views"][0][i, :, :h, :w])
        assert torch.equal(
            plain["label"].masks(i, (64, 48))[:, :h, :w].flip(-1), mirrored["label"].masks(i, (64, 48))[:, :h, :w]
        )


def test_a_sample_depends_on_its_position_alone(rectangles: Path) -> None:
    whole, halves = jittered(rectangles, ScaleJitter()), jittered(rectangles, ScaleJitter(), batch=4)
    ours, theirs = whole[1], [halves[2], halves[3]]
    joined = ObjectTargets.cat([part["label"] for part in theirs])
    for name in ("boxes", "classes", "bits", "extent"):
        assert torch.equal(getattr(ours["label"], name), getattr(joined, name))
    assert torch.equal(ours["views"][0], torch.cat([part["views"][0] for part in theirs]))
    again = next(train_batches(whole, 1, 2, workers=1))
    assert torch.equal(again["label"].boxes, ours["label"].boxes)


def test_micro_batches_are_cut_from_targets(rectangles: Path) -> None:
    item = jittered(rectangles, ScaleJitter())[0]
    cut = slice_batch({"image": item["views"][0], "y": item["label"]}, 2, 3)["y"]
    assert len(cut) == 3
    assert torch.equal(cut.boxes, item["label"].boxes[2:5])
    assert torch.equal(cut.masks(0, (64, 48)), item["label"].masks(2, (64, 48)))


def test_the_whole_image_fits(rectangles: Path) -> None:
    images, part = images_of(rectangles), fitted(rectangles, (64, 48), 8)
    assert part["indices"].tolist() == list(range(8))
    for i, (h, w) in enumerate(part["sizes"].tolist()):
        height, width = images.source.sizes[i].tolist()
        assert h == 64 or w == 48
        assert h / height == pytest.approx(w / width, rel=0.02)
        assert FittingImage((64, 48))(height, width) == ViewBox((0, 0, width, height), (h, w))


def test_another_size_than_the_json_says(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c", 10, size=32)
    Image.new("RGB", (20, 32)).save(root / "train" / "scene-000002.png")
    item = jittered(root, ScaleJitter(), batch=10, size=(32, 32))[0]
    assert item["skipped"] == [
        ("train/scene-000002.png", "20 x 32 pixels (as its EXIF turns it), the json says 32 x 32")
    ]
    assert len(fitted(root, (32, 32), 16)["indices"]) == 9


def test_crowds_are_no_targets(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c", 5, size=32)
    file = root / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    for annotation in tree["annotations"]:
        annotation["iscrowd"] = 1
    file.write_text(json.dumps(tree))
    source = open_source(root, ImagesConfig(objects=True))
    assert len(source.objects(0).boxes) > 0
    assert len(visible_objects(source, 0, CenterCrop((32, 32))(32, 32), (32, 32), True).classes) == 0


def test_scales_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"--settings.scale is \(0.0, 2.0\)"):
        ScaleJitter((0.0, 2.0))


def test_scales_are_even(rectangles: Path) -> None:
    u = uniforms(0, 0, 0, 2000)
    heights = [ScaleJitter((0.1, 2.0), 0.5).sample(100, 100, (1000, 1000), row).size[0] for row in u]
    assert np.mean(np.array(heights) == 1000) == pytest.approx(1 / 1.9, abs=0.05)  # scales above 1 fill the view
    assert min(heights) == pytest.approx(100, abs=10)

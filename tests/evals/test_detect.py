from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskery.config import ImagesConfig
from maskery.data.dataset import ImageData, open_data
from maskery.data.sources.rle import encode_mask
from maskery.demo.coco import write_coco
from maskery.evals import detect
from maskery.evals.detect import (
    Detect,
    Detections,
    average_precision,
    detect_images,
    fitting_images,
    paste_mask,
    truth_of,
)
from maskery.evals.eval_pass import DEFAULTS
from maskery.terminal import Quiet

MEAN = (0.5, 0.5, 0.5)


def seen(truth: list[tuple[float, ...]], answers: list[tuple[float, ...]], **facts: int) -> Detections:
    """One image of 200 x 200, one class: boxes (left, top, right, bottom), answers with a score."""
    shape = {"iscrowd": 0} | facts

    def xywh(box: tuple[float, ...]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    def area(box: tuple[float, ...]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    annotations: list[dict[str, Any]] = [
        {"id": k + 1, "image_id": 0, "category_id": 1, "bbox": xywh(box), "area": area(box), **shape}
        for k, box in enumerate(truth)
    ]
    found = [{"image_id": 0, "category_id": 1, "bbox": xywh(box), "score": box[4]} for box in answers]
    images = [{"id": 0, "height": 200, "width": 200}]
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "it"}]}
    return Detections(whole, found, [], np.array([0]))


A, B = (0.0, 0.0, 100.0, 100.0), (100.0, 100.0, 200.0, 200.0)


def test_by_hand() -> None:
    """Two objects; the surer answer is exact, the other overlaps by 0.62: right at 0.5, 0.55 and 0.6 only."""
    numbers = average_precision(seen([A, B], [(*A, 0.9), (100.0, 100.0, 200.0, 162.0, 0.8)]), False)[0]
    half = 51 / 101  # precision is 1 at the recalls 0, 0.01 .. 0.5
    assert numbers["box_ap50"] == pytest.approx(1.0)
    assert numbers["box_ap75"] == pytest.approx(half)
    assert numbers["box_ap"] == pytest.approx((3 + 7 * half) / 10)
    assert numbers["box_recall"] == pytest.approx((3 + 7 * 0.5) / 10)
    assert numbers["box_ap_large"] == pytest.approx(numbers["box_ap"])
    assert "box_ap_small" not in numbers  # there is none
    assert next(iter(numbers)) == "box_ap"  # it decides


def test_the_order_of_scores_counts() -> None:
    wrong = (0.0, 100.0, 50.0, 150.0, 0.95)
    numbers = average_precision(seen([A], [(*A, 0.9), wrong]), False)[0]
    assert numbers["box_ap"] == pytest.approx(0.5)  # the surest answer is wrong: precision is a half everywhere
    assert average_precision(seen([A], []), False)[0]["box_ap"] == 0.0


def test_what_is_found_in_a_crowd_is_not_counted() -> None:
    one = seen([A], [(*A, 0.9), (110.0, 110.0, 150.0, 150.0, 0.95), (120.0, 120.0, 150.0, 150.0, 0.97)])
    assert average_precision(one, False)[0]["box_ap"] < 0.4
    one.truth["annotations"].append(
        {"id": 2, "image_id": 0, "category_id": 1, "bbox": [100, 100, 100, 100], "area": 1e4, "iscrowd": 1}
    )
    assert average_precision(one, False)[0]["box_ap"] == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------- real scenes
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = write_coco(tmp_path_factory.mktemp("coco") / "c", 20, size=64)
    return open_data(str(root), ImagesConfig(objects=True, memory=0.0), (48, 48), Quiet())


def oracle(data: ImageData, noise: float, seed: int = 0) -> Any:
    """Answers that are the truth, moved by so many pixels; masks are full boxes."""
    rng, at, source = np.random.default_rng(seed), iter(data.train.tolist()), data.images.source

    def detect(images: Tensor, extent: Tensor) -> list[dict[str, Tensor]]:
        answers = []
        for (h, w), i in zip(extent.tolist(), at, strict=False):
            objects = source.objects(i)  # type: ignore[attr-defined]
            scale = np.array([w, h, w, h]) / np.tile(source.sizes[i][::-1], 2)  # type: ignore[attr-defined]
            n = len(objects.boxes)
            boxes = (objects.boxes * scale + rng.normal(0, noise, (n, 4))).clip(0, 48)
            boxes = np.sort(boxes.reshape(-1, 2, 2), 1).reshape(-1, 4)
            classes = np.where(rng.random(n) < 0.1 * (noise > 0), 0, objects.classes)
            answers.append(
                {
                    "boxes": torch.from_numpy(boxes).float(),
                    "classes": torch.from_numpy(classes),
                    "scores": torch.from_numpy(rng.random(n)).float(),
                    "masks": torch.ones(n, 28, 28),
                }
            )
        return answers

    return detect


def detected(detect: Detect, data: ImageData, masks: bool) -> Detections:
    return detect_images(detect, fitting_images(data.images, data.train, (48, 48), MEAN, DEFAULTS), masks)


def with_noise(data: ImageData, noise: float) -> Detections:
    return detected(oracle(data, noise), data, masks=True)


def test_the_truth_scores_one(data: ImageData) -> None:
    found = with_noise(data, 0.0)
    numbers = average_precision(found, True)[0]
    assert {name: value for name, value in numbers.items() if name.startswith("box_ap")} == {
        name: pytest.approx(1.0) for name in numbers if name.startswith("box_ap")
    }
    whole = truth_of(data.images.source, data.train.tolist(), True)  # type: ignore[arg-type]
    exact = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": a["segmentation"], "score": 1.0}
        for a in whole["annotations"]
    ]
    masks = average_precision(Detections(whole, found.boxes, exact, found.indices), True)[0]
    assert masks["mask_ap"] == pytest.approx(1.0)
    assert masks["mask_ap50"] == pytest.approx(1.0)


def test_the_official_code_says_the_same(data: ImageData) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = with_noise(data, 2.0)
    ours = average_precision(found, True)[0]
    assert 0.05 < ours["box_ap"] < 0.8
    for how, kind, answers in (("bbox", "box", found.boxes), ("segm", "mask", found.masks)):
        known = COCO()
        known.dataset = {part: [dict(one) for one in each] for part, each in found.truth.items()} | {"info": {}}
        known.createIndex()
        judged = COCOeval(known, known.loadRes([dict(one) for one in answers]), how)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        for name, value in zip(names, judged.stats[:6], strict=True):
            assert ours.get(f"{kind}_{name}", -1.0) == pytest.approx(value, abs=1e-9), name
        assert ours[f"{kind}_recall"] == pytest.approx(judged.stats[8], abs=1e-9)
    assert mask.decode(encode_mask(np.eye(9))).sum() == 9


def test_by_class(data: ImageData) -> None:
    _, by_class = average_precision(with_noise(data, 0.0), True)
    assert set(by_class) == {"box", "mask"}
    source = data.images.source
    there = {int(m) for i in data.train for m in source.objects(int(i)).classes}  # type: ignore[attr-defined]
    assert [value is not None for value in by_class["box"]] == [m in there for m in range(7)]


def test_masks_are_put_where_their_boxes_are() -> None:
    mask = paste_mask(torch.ones(28, 28), torch.tensor([2.0, 3.0, 6.0, 9.0]), (12, 8))
    assert mask.sum() == 4 * 6
    assert mask[3:9, 2:6].all()
    half = torch.zeros(28, 28)
    half[:14] = 1
    assert np.flatnonzero(paste_mask(half, torch.tensor([0.0, 0.0, 8.0, 12.0]), (12, 8)).any(1)).tolist() == list(
        range(6)
    )
    out = paste_mask(torch.ones(28, 28), torch.tensor([-4.0, 10.0, 4.0, 20.0]), (12, 8))
    assert out.sum() == 4 * 2
    assert not paste_mask(torch.ones(28, 28), torch.tensor([50.0, 50.0, 60.0, 60.0]), (12, 8)).any()


def test_results_as_coco_has_them(data: ImageData) -> None:
    """The network sees images of 64 x 64 at 48 x 48."""
    answer = {"boxes": torch.tensor([[3.0, 6.0, 15.0, 24.0]]), "classes": torch.tensor([3])}
    answer |= {"scores": torch.tensor([0.5]), "masks": torch.ones(1, 28, 28)}
    found, i = detected(lambda images, extent: [answer] * len(images), data, masks=True), data.train[0]
    assert found.boxes[0] == {"image_id": i, "category_id": 4, "bbox": [4, 8, 16, 24], "score": 0.5}
    assert found.masks[0].keys() == {"image_id", "category_id", "segmentation", "score"}
    assert found.masks[0]["segmentation"]["size"] == [64, 64]


def test_answers_that_are_no_numbers(data: ImageData) -> None:
    def nan(images: Tensor, extent: Tensor) -> list[dict[str, Tensor]]:
        one = {"boxes": torch.full((1, 4), torch.nan), "classes": torch.tensor([0]), "scores": torch.ones(1)}
        return [one] * len(images)

    with pytest.raises(ValueError, match=r"train/scene-000000\.png: the detector's answer is not finite"):
        detected(nan, data, masks=False)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match=r"pip install '.\[detect\]'"):
        average_precision(seen([A], [(*A, 0.9)]), False)
    assert detect.SCORE == 0.5

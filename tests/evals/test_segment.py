import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from maskery.config import ImagesConfig
from maskery.data.dataset import ImageData, open_data
from maskery.data.masks import VOID, LabelMap
from maskery.demo import scenes
from maskery.evals.eval_pass import DEFAULTS, EvalPass
from maskery.evals.segment import (
    Inference,
    Segment,
    Show,
    class_rows,
    images_with_masks,
    iou,
    numbers,
    pixel_classes,
    segment_images,
    windows,
)
from maskery.terminal import Quiet


def by_hand(predicted: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, float]:
    """Pixel by pixel."""
    either, both, own, right, named = [0] * classes, [0] * classes, [0] * classes, 0, 0
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t == VOID:
            continue
        named, right = named + 1, right + (p == t)
        own[t] += 1
        for c in {p, t}:
            either[c] += 1
        both[t] += p == t
    ious = [b / e for b, e in zip(both, either, strict=True) if e]
    accuracies = [b / o for b, o in zip(both, own, strict=True) if o]
    return {
        "miou": sum(ious) / len(ious),
        "pixel_accuracy": right / named,
        "mean_accuracy": sum(accuracies) / len(accuracies),
    }


def matrix_of(predicted: np.ndarray, truth: np.ndarray, classes: int) -> Tensor:
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        matrix[t, p] += t != VOID
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_counted_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(VOID, 4, (3, 9, 11))  # class 4 is in no mask, and 5 nowhere at all
    predicted = np.where(rng.random(truth.shape) < 0.5, np.maximum(truth, 0), rng.integers(0, 5, truth.shape))
    found = numbers(matrix_of(predicted, truth, 6))
    assert found == pytest.approx(by_hand(predicted, truth, 6))
    sklearn = pytest.importorskip("sklearn.metrics")
    named = truth != VOID
    theirs = sklearn.jaccard_score(truth[named], predicted[named], average=None, labels=range(5))
    assert iou(matrix_of(predicted, truth, 6))[:5].tolist() == pytest.approx(theirs.tolist())


def test_what_is_not_defined_is_left_out() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 0]])  # the second is answered and never true
    assert numbers(matrix) == {"miou": (3 / 4 + 0) / 2, "pixel_accuracy": 3 / 4, "mean_accuracy": 3 / 4}
    found = class_rows(matrix, ("a", "b", "c"))
    assert found[1] == {"class": "b", "iou": 0.0, "accuracy": None, "share_of_pixels": 0.0}
    assert found[2]["iou"] is None
    with pytest.raises(ValueError, match="all pixels of these masks are void"):
        numbers(torch.zeros(3, 3, dtype=torch.int64))


@given(st.integers(1, 50), st.integers(0, 90), st.integers(1, 50), st.integers(0, 90))
def test_windows_cover_everything_and_overlap_by_a_third(h: int, more: int, w: int, wider: int) -> None:
    image, size = (h + more, w + wider), (h, w)
    covered = np.zeros(image, int)
    for top, left in windows(image, size):
        assert 0 <= top <= more
        assert 0 <= left <= wider
        covered[top : top + h, left : left + w] += 1
    assert covered.min() >= 1
    stride = max(1, w * 2 // 3)
    assert len({left for _, left in windows(image, size)}) == math.ceil(wider / stride) + 1  # as mmsegmentation


def test_windows_of_the_published_size() -> None:
    assert windows((512, 512), (512, 512)) == [(0, 0)]
    assert windows((512, 683), (512, 512)) == [(0, 0), (0, 171)]
    assert windows((512, 1000), (512, 512)) == [(0, 0), (0, 341), (0, 488)]


@pytest.mark.parametrize("size", [(9, 7), (20, 30), (5, 5)])
def test_the_highest_of_all_classes_at_any_number_of_them(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(40, 9, 7)  # more than are enlarged at once
    logits[3] += 2
    logits[17] = logits[3]  # often the highest: the first of them is meant
    enlarged = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.equal(pixel_classes(logits, size), enlarged.argmax(0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """Ten square scenes; the last held out is cut to 20 x 28 and has a quarter of void."""
    where = scenes.write_masks(tmp_path_factory.mktemp("segment") / "d", 10, size=32, holdout=0.5)
    for kind in ("images", "masks"):
        file = where / kind / "val" / "scene-000009.png"
        picture = Image.open(file).crop((0, 0, 28, 20))
        if kind == "masks":
            picture.paste(255, (0, 0, 14, 10))
        picture.save(file)
    return open_data(str(where), ImagesConfig(masks=True, memory=0.0), (32, 32), Quiet())


LABEL_MAP = LabelMap(tuple(range(8)))


def by_colour(image: Tensor) -> Tensor:
    """Logits of eight classes that depend on a pixel alone."""
    return torch.cat([image, 1 - image, image[:, :2] * 0.5], dim=1)


def segmented(
    data: ImageData,
    indices: np.ndarray,
    segment: Segment = by_colour,
    size: tuple[int, int] = (32, 32),
    label_map: LabelMap = LABEL_MAP,
    inference: Inference = "slide",
    show: Show | None = None,
) -> tuple[Tensor, EvalPass]:
    images = images_with_masks(data.images, indices, size, label_map, inference, DEFAULTS)
    return segment_images(segment, images, len(label_map.ids), show), images


def test_one_window_is_the_whole(data: ImageData) -> None:
    square = data.held_out[:4]
    assert torch.equal(segmented(data, square)[0], segmented(data, square, inference="whole")[0])
    whole, _ = segmented(data, data.held_out, inference="whole")
    assert whole.sum() == 4 * 32 * 32 + 20 * 28 - 14 * 10  # void is not counted


def test_predictions_lie_where_the_pixels_are(data: ImageData) -> None:
    """By a network that looks at single pixels, windows make no difference, and the matrix is that of each image."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    show: Show = lambda i, predicted, truth: seen.__setitem__(i, (predicted, truth))  # noqa: E731
    matrix, _ = segmented(data, data.held_out, show=show)
    assert list(seen) == data.held_out.tolist()
    total = torch.zeros(8, 8, dtype=torch.int64)
    for i, (predicted, truth) in seen.items():
        array = data.images.open(i).at(1.0).array  # type: ignore[union-attr]
        image = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255
        if image.shape[2:] == (32, 32):
            assert torch.equal(predicted, by_colour(image)[0].argmax(0))
        else:
            scaled = F.interpolate(image, (32, 45), mode="bicubic", antialias=True).clamp(0, 1)
            back = F.interpolate(by_colour(scaled), (20, 28), mode="bilinear")[0].argmax(0)
            assert (predicted == back).float().mean() > 0.97  # 8 bits between
            assert (truth == VOID).sum() == 140
        total += matrix_of(predicted.numpy(), truth.numpy(), 8)
    assert torch.equal(matrix, total)


def test_what_cannot_be_measured(data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"logits of 1 of 1 images hold NaN.*images/val/scene-000005\.png"):
        segmented(data, data.held_out, lambda x: by_colour(x) * math.nan)
    with pytest.raises(ValueError, match=r"the mask of images/val/scene-\d+\.png has the value \d: the 2 classes"):
        segmented(data, data.held_out, label_map=LabelMap((0, 1)))


def test_unreadable_masks_are_left_out(data: ImageData, tmp_path: Path) -> None:
    where = scenes.write_masks(tmp_path / "d", 4, size=16, holdout=0.5)
    (where / "masks" / "val" / "scene-000002.png").write_bytes(b"nothing")
    opened = open_data(str(where), ImagesConfig(masks=True, memory=0.0), (16, 16), Quiet())
    _, found = segmented(opened, opened.held_out, size=(16, 16))
    assert found.indices.tolist() == [3]
    assert [name for name, _ in found.skipped] == ["images/val/scene-000002.png"]

"""Batches of images with masks: what is cut from one is cut from the other, whatever the scale, crop and flip."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.crops import UNIFORMS, WholeImage
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.loader import eval_batches, train_batches
from maskery.data.mask_targets import (
    CoveringImage,
    MaskSampler,
    RandomScaleCrop,
    covering_size,
    full_mask,
    mask_targets,
)
from maskery.data.masks import VOID, LabelMap, nearest
from maskery.data.sources.open import open_source
from maskery.data.train_dataset import SamplingPlan, TrainDataset

GREY = (0.0, 80.0, 160.0, 240.0)  # of an image, where its mask is 0, 1, 2, 3
LABEL_MAP = LabelMap((0, 1, 2, 3))
SIZE = (32, 40)


def blocky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Classes in blocks of 12 pixels."""
    small = rng.integers(0, 4, (-(-height // 12), -(-width // 12)), np.uint8)
    return small.repeat(12, 0).repeat(12, 1)[:height, :width]


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def table(path: Path, masks: list[np.ndarray], bits: int = 8) -> Path:
    """Images whose grey level says what their mask is."""
    levels = np.array(GREY) * (1 if bits == 8 else 257)
    images = [levels.astype(np.uint8 if bits == 8 else np.uint16)[mask] for mask in masks]
    pq.write_table(pa.table({"image": [*map(png, images)], "mask": [*map(png, masks)]}), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (64, 48), (100, 30), (24, 24), (53, 71)] * 4
    return table(tmp_path_factory.mktemp("masked") / "t.parquet", [blocky(rng, *size) for size in sizes])


def images_of(data: Path, bits: int = 8) -> Images:
    return Images(open_source(data, ImagesConfig(masks=True)), channels=1, bits=bits, pages="first", min_side=64)


def masked(data: Path, *plan: int, seed: int = 0, bits: int = 8, **crop: Any) -> TrainDataset:
    """`plan`: batch, rank, ranks."""
    sampler = MaskSampler(RandomScaleCrop(**crop), LABEL_MAP, fill=(0.5,))
    plan_ = SamplingPlan(SIZE, seed, *(plan or (20,)))
    return TrainDataset(images_of(data, bits), np.arange(20), plan_, sampler, mask_targets(SIZE))


def agreement(view: torch.Tensor, label: torch.Tensor, top: float = 255) -> tuple[int, int]:
    """(pixels with a class that their neighbours have, too, and its grey level; without it)."""
    levels = torch.tensor(GREY) / 255
    x, y = view[0].float() / top, label.long()
    own = y != VOID
    inner = own.clone()
    inner[:2] = inner[-2:] = False
    inner[:, :2] = inner[:, -2:] = False
    for down in range(-2, 3):
        for across in range(-2, 3):
            inner &= y.roll((down, across), (0, 1)) == y
    right = ((x - levels[y.clamp_min(0)]).abs() < 0.12)[inner]
    return int(right.sum()), int((~right).sum())


@pytest.mark.parametrize("bits", [8, 16])
def test_image_and_mask_stay_together(data: Path, tmp_path: Path, bits: int) -> None:
    if bits == 16:
        data = table(tmp_path / "t.parquet", [blocky(np.random.default_rng(1), 48, 64) for _ in range(20)], 16)
    item = masked(data, bits=bits)[0]
    assert item["views"][0].shape == (20, 1, 32, 40)
    assert item["label"].shape == (20, 32, 40)
    assert item["label"].dtype == torch.int16
    top = 255 if bits == 8 else 65535
    found = [agreement(v, y, top) for v, y in zip(item["views"][0], item["label"], strict=True)]
    right, wrong = map(sum, zip(*found, strict=True))
    assert right > 2000
    assert wrong < 0.005 * right


def test_what_is_left_over_is_void_and_of_the_mean_colour(data: Path) -> None:
    item = masked(data, scale=(0.5, 0.5))[0]
    for view, label in zip(item["views"][0], item["label"], strict=True):
        assert bool((label != VOID)[0, 0])
        rows, columns = (label != VOID).any(1).sum(), (label != VOID).any(0).sum()
        assert (label[:rows, :columns] != VOID).all()
        assert (rows, columns) != (32, 40)
        assert (view[0][label == VOID] == 128).all()  # half of 255, rounded


def test_a_sample_is_a_function_of_seed_and_position(data: Path) -> None:
    def everything(data: TrainDataset, steps: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        found = [*train_batches(data, start, steps, 0)]
        return torch.cat([f["views"][0] for f in found]), torch.cat([f["label"] for f in found])

    whole = everything(masked(data, 8), 6)
    for mine, theirs in zip(everything(masked(data, 8), 6, 3), whole, strict=True):
        assert torch.equal(mine, theirs[24:])
    one, other = (everything(masked(data, 8, rank, 2), 6) for rank in (0, 1))
    for k in (0, 1):
        mixed = torch.stack([one[k].unflatten(0, (6, 4)), other[k].unflatten(0, (6, 4))], 1).flatten(0, 2)
        assert torch.equal(mixed, whole[k])
    assert not torch.equal(everything(masked(data, 8, seed=1), 6)[1], whole[1])


def test_workers_hand_over_the_same(data: Path) -> None:
    here, there = (next(iter(train_batches(masked(data, 8), 0, 1, workers))) for workers in (0, 1))
    assert torch.equal(here["views"][0], there["views"][0])
    assert torch.equal(here["label"], there["label"])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 99))
def test_boxes_lie_in_the_image(height: int, width: int, seed: int) -> None:
    u = np.random.default_rng(seed).random(UNIFORMS)
    views = [*RandomScaleCrop().candidates(height, width, SIZE, u)]
    assert len(views) == 10
    for view in views:
        (h, w), (left, top, right, bottom) = view.size, view.box
        assert 1 <= h <= 32
        assert 1 <= w <= 40
        assert -1e-9 <= left < right <= width + 1e-9
        assert -1e-9 <= top < bottom <= height + 1e-9


def test_scales_are_those_of_the_short_side() -> None:
    u = np.zeros(UNIFORMS)
    for scale, filled, side in ((0.5, (16, 21), 48), (1.0, (32, 40), 48), (2.0, (32, 40), 24)):
        view = next(RandomScaleCrop((scale, scale)).candidates(48, 64, SIZE, u))
        assert view.size == filled
        assert view.box[3] == pytest.approx(side)  # rows of the image in the crop


def test_no_class_covers_too_much_where_that_can_be_had() -> None:
    mask = np.zeros((64, 64), np.int16)
    mask[:, 48:] = 1  # a quarter
    rng, shares = np.random.default_rng(0), {0.75: [], 1.0: []}
    for _ in range(200):
        u = rng.random(UNIFORMS)
        for most, found in shares.items():
            _, cut = RandomScaleCrop((2, 2), most).sample(mask, (32, 32), u)
            found.append(max(np.bincount(cut.ravel(), minlength=2)) / cut.size)
    assert np.mean(np.array(shares[1.0]) >= 0.75) > 0.6  # 24 of 33 places
    assert np.mean(np.array(shares[0.75]) >= 0.75) < 0.1  # (24 / 33) ** 10
    void = np.where(mask == 0, VOID, mask)  # all that is named is of one class: the last place is taken
    assert RandomScaleCrop((2, 2)).sample(void, (32, 32), u)[1].shape == (32, 32)


def test_what_cannot_be_read_is_replaced_by_the_next(tmp_path: Path) -> None:
    masks = [png(blocky(np.random.default_rng(i), 24, 24)) for i in range(20)]
    image = png(np.zeros((24, 24), np.uint8))
    pq.write_table(pa.table({"image": [image] * 20, "mask": [b"no mask", *masks[1:]]}), tmp_path / "t.parquet")
    item = masked(tmp_path / "t.parquet")[0]
    ((name, reason),) = item["skipped"]
    assert name == "row-00000000"
    assert "mask" in reason
    assert len(item["label"]) == 20


@pytest.mark.parametrize("crop", [CoveringImage(SIZE), WholeImage(SIZE)])
def test_whole_images_and_their_masks(data: Path, crop: CoveringImage | WholeImage) -> None:
    images = images_of(data)
    parts = [
        *eval_batches(EvalDataset(images, np.arange(20), crop, 8, target=partial(full_mask, images.source, LABEL_MAP)))
    ]
    assert [i for part in parts for i in part["indices"].tolist()] == [*range(20)]
    right = wrong = 0
    for image, mask in [pair for part in parts for pair in zip(part["images"], part["targets"], strict=True)]:
        height, width = mask.shape
        size = covering_size(height, width, SIZE) if isinstance(crop, CoveringImage) else SIZE
        assert image.shape == (1, *size)
        shown = torch.from_numpy(nearest(mask.numpy(), (0, 0, width, height), size))
        right, wrong = (a + b for a, b in zip((right, wrong), agreement(image, shown), strict=True))
    assert right > 2000
    assert wrong < 0.005 * right


def test_covering_size_keeps_the_aspect() -> None:
    assert covering_size(48, 64, (32, 32)) == (32, 43)
    assert covering_size(64, 48, (32, 32)) == (43, 32)
    assert covering_size(48, 64, (32, 48)) == (36, 48)
    assert covering_size(24, 24, (32, 32)) == (32, 32)

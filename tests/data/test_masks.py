"""Masks: what is read from files, what values mean, and that bad ones are named in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.decode.unreadable import Unreadable
from maskery.data.masks import VOID, LabelMap, decode_mask, mask_of, nearest, survey_masks
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from maskery.demo import scenes

VALUES = np.array([[0, 1, 2], [3, 255, 1]])


def encoded(array: np.ndarray, kind: str = "PNG", palette: bool = False) -> bytes:
    image, out = Image.fromarray(array), io.BytesIO()
    if palette:
        image.putpalette([7, 7, 7, 200, 0, 0, 0, 0, 9] + [5] * 759)  # the same colour may be there twice
    image.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (encoded(VALUES.astype(np.uint8)), np.uint8),
        (encoded(VALUES.astype(np.uint8), palette=True), np.uint8),
        (encoded(VALUES.astype(np.uint16)), np.uint16),
        (encoded(VALUES.astype(np.uint8), "TIFF"), np.uint8),
    ],
    ids=["grey", "palette", "16 bits", "tiff"],
)
def test_values_come_as_they_are_stored(data: bytes, dtype: type) -> None:
    found = decode_mask(data, "a")
    assert found.dtype == dtype
    assert found.tolist() == VALUES.tolist()


def test_two_values_may_be_one_bit() -> None:
    bits = np.array([[True, False]])
    assert decode_mask(encoded(bits), "a").tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encoded(np.zeros((2, 2, 3), np.uint8)), r"the mask of a is a picture of colours \(RGB\)"),
        (encoded(np.zeros((2, 2), np.uint8), "JPEG"), "the mask of a is a JPEG"),
    ],
)
def test_what_holds_no_values_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        decode_mask(data, "a")
    assert not isinstance(refused.value, Unreadable)
    assert "\n" not in str(refused.value)


def test_damaged_masks_are_unreadable() -> None:
    with pytest.raises(Unreadable, match="mask"):
        decode_mask(encoded(np.zeros((99, 99), np.uint8))[:60], "a")


def test_what_values_mean() -> None:
    whole = LabelMap((0, 1, 2, 3))
    assert whole.classes(VALUES.astype(np.uint8), "a").tolist() == [[0, 1, 2], [3, VOID, 1]]
    ade = LabelMap((1, 2, 3), (255, 0))  # 0 is void, classes count from 1
    assert ade.classes(VALUES.astype(np.uint16), "a").tolist() == [[VOID, 0, 1], [2, VOID, 0]]
    sparse = LabelMap((0, 255, 1, 2, 3), ())
    assert sparse.classes(VALUES.astype(np.uint8), "a").tolist() == [[0, 2, 3], [4, 1, 2]]
    with pytest.raises(ValueError, match=r"the mask of b\.png has the value 3: the 3 classes have values from 0 to 2"):
        LabelMap((0, 1, 2)).classes(VALUES.astype(np.uint8), "b.png")


def test_nearest_takes_the_pixel_that_a_centre_lies_in() -> None:
    mask = np.arange(12).reshape(3, 4)
    assert nearest(mask, (0, 0, 4, 3), (3, 4)).tolist() == mask.tolist()
    assert nearest(mask, (0, 0, 4, 3), (6, 8)).tolist() == mask.repeat(2, 0).repeat(2, 1).tolist()
    assert nearest(mask, (1, 1, 4, 3), (2, 3)).tolist() == mask[1:, 1:].tolist()
    for size in ((2, 2), (5, 3), (7, 11)):
        theirs = Image.fromarray(mask.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        assert nearest(mask, (0, 0, 4, 3), size).tolist() == np.array(theirs).tolist()


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return scenes.write_masks(tmp_path / "d", 4, size=24, holdout=0.5)


def opened(where: Path) -> Source:
    return open_source(where, ImagesConfig(masks=True))


def test_the_survey_counts_every_pixel(four: Path) -> None:
    found, masks = survey_masks(opened(four), [0, 2, 3]), [scenes.scene(0, i, 24).mask for i in (0, 2, 3)]
    assert found.pixels[:8].tolist() == np.bincount(np.concatenate([m.ravel() for m in masks]), minlength=8).tolist()
    assert found.first[:8].tolist() == [
        next((i for i, m in zip((0, 2, 3), masks, strict=True) if (m == v).any()), -1) for v in range(8)
    ]
    assert found.unreadable == ()


def test_a_mask_of_another_size_is_named(four: Path) -> None:
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(four / "masks" / "val" / "scene-000003.png")
    said = r"the mask of images/val/scene-000003\.png has 24 x 20 pixels, the image 24 x 24"
    with pytest.raises(ValueError, match=said):
        survey_masks(opened(four), np.arange(4))
    with pytest.raises(ValueError, match=said):
        mask_of(opened(four), 3, (24, 24), LabelMap((0, 1)))


def test_what_cannot_be_read_is_listed(four: Path) -> None:
    (four / "masks" / "train" / "scene-000000.png").write_bytes(b"no picture")
    (four / "images" / "train" / "scene-000001.png").write_bytes(b"")
    names, reasons = zip(*survey_masks(opened(four), np.arange(4)).unreadable, strict=True)
    assert names == ("images/train/scene-000000.png", "images/train/scene-000001.png")
    assert "mask" in reasons[0]
    assert reasons[1] == "0 bytes"

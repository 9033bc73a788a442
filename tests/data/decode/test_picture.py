"""Smaller copies of an image: boxes of the image fall where they should."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskery.data.decode.image import decode_picture, open_image
from maskery.data.decode.picture import Picture, detail
from maskery.data.decode.pixels import resize


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, both by the pixel: a colour is a place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x + 100], 2).round().astype(np.uint8)


def encoded(array: np.ndarray, orientation: int = 1, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    Image.fromarray(array).save(out, format, exif=exif, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_box_of_a_reduced_and_turned_image_is_where_it_was(orientation: int, factor: int) -> None:
    data = encoded(ramp(331, 437), orientation)
    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = open_image(data, channels=3)
    assert (image.height, image.width) == upright.shape[:2]
    found = image.at(1 / factor)
    assert max(found.array.shape) == -(-437 // factor)
    for box in ((0, 0, 96, 96), (image.width - 97, image.height - 99, image.width, image.height), (57, 31, 193, 177)):
        size = (max(8, int((box[3] - box[1]) / factor)), max(8, int((box[2] - box[0]) / factor)))
        view = resize(*found.region(box, size)[:1], *size, found.region(box, size)[1]).astype(float)
        want = resize(upright[box[1] : box[3], box[0] : box[2]], *size).astype(float)
        inner = np.s_[2:-2, 2:-2]  # what lies beyond the box shows at its edges, and in blocks of the DCT
        assert abs((view - want)[inner]).mean() < 0.7
        shift = abs((view - want)[inner].mean((0, 1))).max()
        assert shift < 0.25 + 0.04 * factor, "half a reduced pixel would be 0.3 to 0.4 levels times the factor"


def test_decoded_no_finer_than_asked_and_no_coarser() -> None:
    image = open_image(encoded(ramp(800, 1000)), channels=3)
    for wanted, scale in ((1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.01, 8), (3.0, 1)):
        assert image.at(wanted).array.shape[:2] == (800 // scale, 1000 // scale), wanted
    flat = open_image(encoded(ramp(100, 120), format="PNG"), channels=3)
    assert flat.at(0.1).array.shape == (100, 120, 3)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_view_never_gets_fewer_pixels_than_it_has(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(60, 900)) for _ in "hw")
    left, top = data.draw(st.integers(0, width - 40)), data.draw(st.integers(0, height - 40))
    box = (left, top, data.draw(st.integers(left + 40, width)), data.draw(st.integers(top + 40, height)))
    size = (data.draw(st.integers(8, 64)), data.draw(st.integers(8, 64)))
    scale = max(s for s in (1, 2, 4, 8) if s <= max(1, 1 / detail([box], size)))
    reduced = np.zeros((-(-height // scale), -(-width // scale), 1), np.uint8)
    region, (x, y, right, bottom) = Picture.of_reduced(reduced, height, width, scale).region(box, size)
    assert 0 <= x < right <= region.shape[1]
    assert 0 <= y < bottom <= region.shape[0]
    assert right - x >= min(size[1], box[2] - box[0]) - 1e-3
    assert bottom - y >= min(size[0], box[3] - box[1]) - 1e-3
    assert min((right - x) / size[1], (bottom - y) / size[0]) < 2


def test_nothing_outside_the_box_is_handed_out() -> None:
    array = np.zeros((40, 60, 3), np.uint8)
    array[10:30, 20:50] = 255
    region, box = Picture.of(array).region((20, 10, 50, 30), (16, 16))
    assert region.min() == 255
    assert box == (0, 0, 30, 20)
    region, box = Picture.of(array).region((20, 10, 50, 30), (4, 4))  # five times the view: reduced
    assert region.shape == (4, 6, 3)
    assert region.min() == 255
    assert box == (0, 0, 6, 4)


def test_a_copy_knows_what_it_is_a_copy_of() -> None:
    full = ramp(300, 500)
    small = resize(full, 120, 200)
    image = open_image(encoded(small, format="PNG"), channels=3, full=(300, 500))
    assert (image.height, image.width) == (300, 500)
    box = (101, 53, 401, 253)
    region, inside = image.at(1.0).region(box, (40, 60))
    view = resize(region, 40, 60, inside).astype(float)
    want = resize(full[box[1] : box[3], box[0] : box[2]], 40, 60)
    assert abs(view - want).mean() < 0.6
    jpeg = open_image(encoded(small), channels=3, full=(300, 500))
    assert jpeg.at(0.2).array.shape == (60, 100, 3), "0.2 of the full size is half of the copy's"


def test_reduced_for_memory_it_still_knows_its_size() -> None:
    kept = decode_picture(open_image(encoded(ramp(331, 437), 3), channels=3), 60)
    assert (kept.height, kept.width) == (331, 437)
    assert kept.array.shape[0] == 83
    assert kept.extent == pytest.approx((110 - 437 / 4, 83 - 331 / 4, 110, 83))
    again = kept.reduced_by(2)
    assert again.extent[2] - again.extent[0] == pytest.approx(437 / 8)

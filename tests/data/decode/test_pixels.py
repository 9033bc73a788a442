import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskery.data.decode.pixels import luma, reduction, resize, rgb_of_cmyk, shrink, stretch, to_bits, upright


def noise(channels: int, dtype=np.uint8, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


@pytest.mark.parametrize("box", [None, (3.25, 4.5, 41.75, 33.0), (0, 0, 60, 40)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (90, 30), (40, 60)])
def test_resize_is_pillows(height, width, box):
    image = noise(3)
    want = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box)
    np.testing.assert_array_equal(resize(image, height, width, box), np.asarray(want))
    planes = resize(np.concatenate([image, image], 2), height, width, box)  # six channels, each as if it were alone
    np.testing.assert_array_equal(planes, np.concatenate([np.asarray(want)] * 2, 2))


def test_resize_takes_no_channel_for_an_alpha():
    image = noise(4)
    image[:, :, 3] = 0
    np.testing.assert_array_equal(resize(image, 20, 20)[:, :, :3], resize(image[:, :, :3], 20, 20))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resize_keeps_16_bit_precision(channels):
    image = noise(channels, np.uint16)
    small = resize(image, 17, 23, (1.5, 2.5, 50.0, 39.0))
    assert small.dtype == np.uint16
    assert small.shape == (17, 23, channels)
    for c in range(channels):
        plane = Image.fromarray(image[:, :, c].astype(np.float32))
        exact = np.asarray(plane.resize((23, 17), Image.Resampling.BICUBIC, (1.5, 2.5, 50.0, 39.0)))
        np.testing.assert_allclose(small[:, :, c], np.clip(exact, 0, 65535), atol=0.51)
    np.testing.assert_array_equal(resize(image, 40, 60), image)
    assert len(np.unique(small)) > 300, "more than 8 bits of values"


def test_resize_refuses_a_box_outside():
    with pytest.raises(ValueError, match=r"[Bb]ox"):
        resize(noise(3), 10, 10, (0, 0, 61, 40))


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50), min_side=st.integers(1, 60), wide=st.booleans())
def test_shrinking_keeps_the_short_side(height, width, min_side, wide):
    image = noise(2, np.uint16 if wide else np.uint8, height, width)
    small = shrink(image, reduction(height, width, min_side))
    assert small.dtype == image.dtype
    assert min(small.shape[:2]) >= min(min_side, height, width)


def test_shrinking_takes_means():
    image = noise(1, np.uint16, 40, 60)
    want = image.reshape(20, 2, 30, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(shrink(image, 2)[:, :, 0], want, atol=0.51)


def test_luma_is_pillows():
    image = noise(3)
    np.testing.assert_array_equal(luma(image)[:, :, 0], np.asarray(Image.fromarray(image).convert("L")))
    assert luma(np.full((1, 1, 3), 65535, np.uint16)) == 65535


def test_cmyk_is_pillows():
    image = noise(4)
    want = np.asarray(Image.fromarray(image, "CMYK").convert("RGB")).astype(int)
    np.testing.assert_allclose(rgb_of_cmyk(image), want, atol=1)


def test_depths():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    np.testing.assert_array_equal(to_bits(values, 8), np.rint(values / 257))
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_bits(to_bits(eight, 16), 8), eight)
    for bits, full in ((1, 255), (4, 255), (12, 65535)):
        image = np.array([0, 1, 2**bits - 1], np.uint16)
        np.testing.assert_array_equal(stretch(image, bits), [0, round(full / (2**bits - 1)), full])


def test_all_eight_orientations():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    turned = {n: upright(image, n)[:, :, 0].tolist() for n in range(1, 9)}
    assert turned[1] == upright(image, 77)[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert turned[2] == [[2, 1, 0], [5, 4, 3]]
    assert turned[3] == [[5, 4, 3], [2, 1, 0]]
    assert turned[4] == [[3, 4, 5], [0, 1, 2]]
    assert turned[5] == [[0, 3], [1, 4], [2, 5]]
    assert turned[6] == [[3, 0], [4, 1], [5, 2]]
    assert turned[7] == [[5, 2], [4, 1], [3, 0]]
    assert turned[8] == [[2, 5], [1, 4], [0, 3]]

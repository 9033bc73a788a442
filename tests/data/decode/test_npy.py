import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskery.data.decode.image import decode, read_header
from maskery.data.decode.npy import decode_npy, encode_npy
from maskery.data.decode.unreadable import Unreadable


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)),
    )
)
def test_any_image_comes_back(image):
    data = encode_npy(image)
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), image)
    again, alpha = decode_npy(data)
    assert (again.dtype, alpha) == (image.dtype, False)
    np.testing.assert_array_equal(again, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_not_a_band(dtype):
    image = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    with_alpha, bands = encode_npy(image, alpha=True), encode_npy(image)
    bits = 8 * image.itemsize
    assert (read_header(with_alpha).channels, read_header(bands).channels) == (3, 4)
    np.testing.assert_array_equal(decode(with_alpha, channels=4, bits=bits), image)
    np.testing.assert_array_equal(decode(with_alpha, channels=3, bits=bits), image[:, :, :3])
    np.testing.assert_array_equal(decode(bands, channels=4, bits=bits), image)
    with pytest.raises(Unreadable, match="4 channels where 3 are wanted"):
        decode(bands, channels=3, bits=bits)
    assert np.load(io.BytesIO(with_alpha)).dtype.names == ("r", "g", "b", "a")


def test_it_is_read_as_any_other_format():
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    header = read_header(encode_npy(image))
    assert (header.height, header.width, header.channels, header.bits, header.format) == (50, 40, 3, 8, "NPY")
    np.testing.assert_array_equal(decode(encode_npy(image), channels=3), image)
    assert decode(encode_npy(image), channels=3).flags.writeable
    assert decode(encode_npy(image), channels=1, bits=16).shape == (50, 40, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d[:5], "not an image|damaged"),
        (lambda d: d[:60], "header"),
        (lambda d: d[:-1], "truncated NPY"),
        (lambda d: d + b"x", "truncated NPY"),
        (lambda d: d.replace(b"shape", b"shxpe"), "damaged NPY: Header"),
        (lambda d: d.replace(b"|u1", b"<f4"), "uint8 or uint16"),
        (lambda d: d.replace(b"|u1", b"|O8"), "damaged|uint8"),
        (lambda d: d.replace(b"(3, 4, 3)", b"(3, 4)   "), "uint8 or uint16"),
    ],
)
def test_damage(damage, message):
    data = damage(encode_npy(np.zeros((3, 4, 3), np.uint8)))
    with pytest.raises(Unreadable, match=message):
        decode(data, channels=3)
    if not message.startswith("truncated"):
        with pytest.raises(Unreadable):
            read_header(data)

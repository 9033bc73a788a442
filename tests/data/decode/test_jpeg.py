"""The fast decoder gives Pillow's pixels, at every scale, or nothing."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskery.data.decode.jpeg import SCALES, Frame, decode_jpeg, read_frame


def encoded(height: int, width: int, mode: str = "RGB", **options) -> bytes:
    colours = np.random.default_rng(height * width).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 80),
    width=st.integers(8, 80),
    quality=st.integers(10, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    grey=st.booleans(),
)
def test_pixels_are_pillows_at_every_scale(height, width, quality, subsampling, progressive, grey):
    options = {} if grey else {"subsampling": subsampling}
    data = encoded(height, width, "L" if grey else "RGB", quality=quality, progressive=progressive, **options)
    found = read_frame(data)
    assert found == Frame(height, width, 1 if grey else 3, False)
    for scale in SCALES:
        image = Image.open(io.BytesIO(data))
        image.draft("", (width // scale, height // scale))
        want = np.array(image)
        pixels = decode_jpeg(data, found, scale, grey=grey)
        assert pixels is not None
        assert pixels.shape[:2] == (-(-height // scale), -(-width // scale))
        np.testing.assert_array_equal(pixels, want.reshape(pixels.shape))


def test_a_frame_behind_other_segments():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(30, 50, exif=exif, comment=b"\xff\xc0" * 50, icc_profile=bytes(70_000))
    assert read_frame(data) == Frame(30, 50, 3, True)
    assert read_frame(data[:2] + b"\xff\xff" + data[2:]) == Frame(30, 50, 3, True)  # fill bytes


def test_what_it_leaves_to_pillow():
    assert read_frame(encoded(30, 50, "CMYK")) is None
    data = encoded(30, 50)
    at = data.index(b"\xff\xc0")
    deep, lossless, empty, twice = (bytearray(data) for _ in range(4))
    deep[at + 4] = 12  # bits
    lossless[at + 1] = 0xC3
    empty[at + 5 : at + 7] = b"\0\0"  # the height comes later, in a segment of its own
    twice[at:at] = data[at : at + 19]
    for other in (deep, lossless, empty, twice):
        assert read_frame(bytes(other)) is None
    assert read_frame(b"\xff\xd8" + b"rubbish" * 10) is None


def test_bombs_are_left_to_pillow(monkeypatch):
    data = encoded(30, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 50 // 2 - 1)
    assert read_frame(data) is None


def test_cut_and_damaged_files_give_nothing_or_the_picture():
    data = encoded(64, 64, quality=90)
    found = read_frame(data)
    assert found
    whole = decode_jpeg(data, found, 1, grey=False)
    for end in np.linspace(0, len(data) - 1, 60).astype(int):
        again = read_frame(data[:end])
        pixels = decode_jpeg(data[:end], again, 1, grey=False) if again else None
        assert pixels is None or np.array_equal(pixels, whole), f"cut at {end}"
    assert decode_jpeg(data[: len(data) // 2], found, 1, grey=False) is None


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), early=st.booleans())
def test_rubbish_never_gets_further_than_none(flips, early):
    data = bytearray(encoded(40, 40))
    reach = 200 if early else len(data)
    for place, value in flips:
        data[int(place * (reach - 1))] = value
    found = read_frame(bytes(data))
    if found and found.height * found.width < 10**6:
        pixels = decode_jpeg(bytes(data), found, 2, grey=False)
        assert pixels is None or pixels.shape == (-(-found.height // 2), -(-found.width // 2), 3)

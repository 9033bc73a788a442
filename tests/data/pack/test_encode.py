import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskery.data.decode.image import decode, read_header
from maskery.data.decode.unreadable import Unreadable
from maskery.data.pack.encode import Encoding, encode, packed_size


def pattern(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, different in every corner and channel."""
    y, x = np.mgrid[0 : height - 1 : height * 1j, 0 : width - 1 : width * 1j]
    planes = [np.sin(y / height * 3 + c) * np.cos(x / width * 2 + c) for c in range(channels)]
    return ((np.stack(planes, 2) + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


def file(image: np.ndarray, kind: str, **options) -> bytes:
    out = io.BytesIO()
    if kind == "TIFF":
        tifffile.imwrite(out, image, metadata=None, **options)
    else:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "short", "want"),
    [
        (100, 200, 50, (50, 100)),
        (333, 500, 256, (256, 384)),
        (40, 30, 50, (40, 30)),
        (50, 90, 50, (50, 90)),
        (500, 333, 0, (500, 333)),
        (3, 1000, 2, (2, 667)),
    ],
)
def test_the_short_side_and_never_larger(height, width, short, want):
    assert packed_size(height, width, short) == want


def test_a_photograph():
    image = pattern(200, 300)
    packed = encode(file(image, "PNG"), Encoding(64, quality=95))
    assert (packed.kind, packed.size, packed.full) == ("jpeg", (64, 96), (200, 300))
    want = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(packed.data, channels=3) - want).mean() < 2
    assert len(encode(file(image, "PNG"), Encoding(64, quality=30)).data) < len(packed.data)


def test_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = file(pattern(40, 60), "JPEG", quality=95, exif=exif)
    for format in ("jpeg", "raw"):
        packed = encode(data, Encoding(0, format))
        assert packed.size == packed.full == (60, 40)
        assert packed.kind != "copied"
        difference = decode(packed.data, channels=3).astype(int) - decode(data, channels=3)
        assert np.abs(difference).mean() < (3 if format == "jpeg" else 1e-9)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_that_is_small_enough_is_copied(mode):
    data = file(pattern(40, 60, len(mode)), "JPEG")
    for short in (0, 40, 100):
        packed = encode(data, Encoding(short))
        assert (packed.kind, packed.data) == ("copied", data)
    assert encode(data, Encoding(39)).kind == "jpeg"
    assert encode(file(pattern(40, 60), "JPEG", progressive=True), Encoding(0)).kind == "jpeg"
    assert encode(data, Encoding(0, channels=3 if mode == "L" else 1)).kind == "jpeg"
    with pytest.raises(Unreadable):
        encode(data[: len(data) // 2], Encoding(0))


@pytest.mark.parametrize(
    ("data", "kind", "channels", "bits"),
    [
        (file(pattern(30, 40, 4), "PNG"), "png", 4, 8),
        (file(pattern(30, 40, 1, np.uint16), "PNG"), "png", 1, 16),
        (file(pattern(30, 40, 3, np.uint16), "TIFF", photometric="rgb"), "tiff", 3, 16),
        (file(pattern(30, 40, 4), "TIFF", photometric="rgb", extrasamples=["unassalpha"]), "png", 4, 8),
        (
            file(pattern(30, 40, 4, np.uint16), "TIFF", photometric="rgb", extrasamples=["unassalpha"]),
            "tiff",
            4,
            16,
        ),
        (file(pattern(30, 40, 5), "TIFF", photometric="minisblack", planarconfig="contig"), "tiff", 5, 8),
        (file(pattern(30, 40, 2, np.uint16), "TIFF", photometric="minisblack", planarconfig="contig"), "tiff", 2, 16),
    ],
)
@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_what_jpeg_cannot_hold_loses_nothing(data, kind, channels, bits, format):
    packed = encode(data, Encoding(0, format))
    assert packed.kind == (kind if format == "jpeg" else "raw")
    before, after = read_header(data), read_header(packed.data)
    assert (after.channels, after.bits, after.height) == (before.channels, before.bits, before.height)
    want = decode(data, channels=channels, bits=bits)
    np.testing.assert_array_equal(decode(packed.data, channels=channels, bits=bits), want)
    small = encode(data, Encoding(15, format))
    assert decode(small.data, channels=channels, bits=bits).shape == (15, 20, channels)


def test_raw_pixels_and_stacked_pages():
    image = pattern(30, 40)
    np.testing.assert_array_equal(decode(encode(file(image, "PNG"), Encoding(0, "raw")).data, channels=3), image)
    pages = np.stack([pattern(30, 40, 1)[:, :, 0] + k for k in range(3)])
    out = io.BytesIO()
    tifffile.imwrite(out, pages, photometric="minisblack", metadata=None)
    packed = encode(out.getvalue(), Encoding(0, "raw", pages="channels"))
    np.testing.assert_array_equal(decode(packed.data, channels=3), np.moveaxis(pages, 0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": -1}, "short side is -1"),
        ({"quality": 0}, "quality is 0: 1 to 100"),
        ({"format": "png"}, "format is 'png': one of jpeg, raw"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Encoding(**options)

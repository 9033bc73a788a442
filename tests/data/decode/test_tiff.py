import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskery.data.decode.image import decode, read_header
from maskery.data.decode.unreadable import Unreadable


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def tiff(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [2, 4, 5, 16])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}, {"byteorder": ">"}])
def test_bands(samples, planar, dtype, options):
    image = noise(21, 30, samples, dtype=dtype)
    stored = image if planar == "contig" else np.moveaxis(image, 2, 0).copy()
    data = tiff(stored, photometric="minisblack", planarconfig=planar, extrasamples=[0] * (samples - 1), **options)
    bits = np.dtype(dtype).itemsize * 8
    header = read_header(data)
    assert (header.height, header.width, header.channels, header.bits, header.pages) == (21, 30, samples, bits, 1)
    np.testing.assert_array_equal(decode(data, channels=samples, bits=bits), image)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rgb(dtype, compression, planar):
    image = noise(21, 30, 3, dtype=dtype)
    stored = image if planar == "contig" else np.moveaxis(image, 2, 0).copy()
    predictor = compression in ("zlib", "lzw")
    data = tiff(stored, photometric="rgb", planarconfig=planar, compression=compression, predictor=predictor)
    np.testing.assert_array_equal(decode(data, channels=3, bits=np.dtype(dtype).itemsize * 8), image)


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey(dtype, byteorder, white, compression):
    image = noise(21, 30, dtype=dtype)
    data = tiff(
        image, photometric="miniswhite" if white else "minisblack", byteorder=byteorder, compression=compression
    )
    bits = np.dtype(dtype).itemsize * 8
    want = np.iinfo(dtype).max - image if white else image
    np.testing.assert_array_equal(decode(data, channels=1, bits=bits)[:, :, 0], want)


def test_12_bits_are_the_full_range():
    image = (noise(20, 32, dtype=np.uint16) >> 4).astype(np.uint16)
    image[0, :2] = 0, 4095
    decoded = decode(tiff(image, photometric="minisblack", bitspersample=12), channels=1, bits=16)
    np.testing.assert_allclose(decoded[:, :, 0], image / 4095 * 65535, atol=0.5)


def test_16_bit_rgba_drops_the_alpha_unless_four_are_wanted():
    image = noise(21, 30, 4, dtype=np.uint16)
    data = tiff(image, photometric="rgb", extrasamples=["unassalpha"])
    assert read_header(data).channels == 3
    np.testing.assert_array_equal(decode(data, channels=3, bits=16), image[:, :, :3])
    np.testing.assert_array_equal(decode(data, channels=4, bits=16), image)


def test_red_green_blue_infrared_is_four_bands():
    image = noise(21, 30, 4)
    data = tiff(image, photometric="rgb", extrasamples=["unspecified"])
    assert read_header(data).channels == 4
    np.testing.assert_array_equal(decode(data, channels=4), image)
    with pytest.raises(Unreadable, match="4 channels where 3 are wanted"):
        decode(data, channels=3)


def test_16_bit_cmyk():
    ink = np.full((8, 8, 4), 0, np.uint16)
    ink[..., 0] = 65535
    np.testing.assert_array_equal(
        decode(tiff(ink, photometric="separated"), channels=3, bits=16)[0, 0], [0, 65535, 65535]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_the_same_by_pillow_and_by_tifffile(orientation, dtype):
    grey, bands = noise(5, 9, dtype=dtype), noise(5, 9, 5, dtype=dtype)
    tag = [(274, "H", 1, orientation, True)]
    for data, channels in (
        (tiff(grey, extratags=tag), 1),
        (tiff(bands, photometric="minisblack", planarconfig="contig", extratags=tag), 5),
    ):
        upright = decode(data, channels=channels, bits=16)
        header = read_header(data)
        assert (header.height, header.width) == upright.shape[:2] == ((9, 5) if orientation > 4 else (5, 9))
    eight = Image.open(io.BytesIO(tiff(noise(5, 9), extratags=tag)))
    eight.load()  # Pillow turns a TIFF upright itself
    np.testing.assert_array_equal(decode(tiff(noise(5, 9), extratags=tag), channels=1)[:, :, 0], np.array(eight))
    five = np.repeat(noise(5, 9)[:, :, None], 5, 2)
    as_bands = tiff(five, photometric="minisblack", planarconfig="contig", extratags=tag)
    np.testing.assert_array_equal(decode(as_bands, channels=5)[:, :, 0], np.array(eight))


def test_pages_are_stacked_on_request():
    pages = noise(6, 21, 30, dtype=np.uint16)
    data = tiff(pages, photometric="minisblack")
    first, stacked = read_header(data), read_header(data, "channels")
    assert (first.channels, first.pages, stacked.channels, stacked.pages) == (1, 6, 6, 6)
    np.testing.assert_array_equal(decode(data, channels=1, bits=16)[:, :, 0], pages[0])
    np.testing.assert_array_equal(decode(data, channels=6, bits=16, pages="channels"), np.moveaxis(pages, 0, 2))
    with pytest.raises(Unreadable, match="6 channels where 3 are wanted"):
        decode(data, channels=3, pages="channels")


def test_pages_written_by_pillow():
    images = [Image.fromarray(noise(21, 30)), Image.fromarray(255 - noise(21, 30))]
    out = io.BytesIO()
    images[0].save(out, "TIFF", save_all=True, append_images=images[1:], compression="tiff_lzw")
    stacked = decode(out.getvalue(), channels=2, pages="channels")
    np.testing.assert_array_equal(stacked, np.stack([np.array(i) for i in images], 2))


def test_thumbnails_are_no_pages_and_pages_must_be_alike():
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(noise(20, 30), photometric="minisblack")
        writer.write(noise(10, 15), photometric="minisblack", subfiletype=1)
        writer.write(noise(20, 30), photometric="minisblack")
    assert decode(out.getvalue(), channels=2, pages="channels").shape == (20, 30, 2)
    assert read_header(out.getvalue()).pages == 2
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(noise(20, 30), photometric="minisblack")
        writer.write(noise(10, 15), photometric="minisblack")
    assert decode(out.getvalue(), channels=1).shape == (20, 30, 1)
    for call in (
        lambda: decode(out.getvalue(), channels=2, pages="channels"),
        lambda: read_header(out.getvalue(), "channels"),
    ):
        with pytest.raises(Unreadable, match=r"differ.*30 x 20.*page 2 is 15 x 10"):
            call()


@pytest.mark.parametrize(
    ("dtype", "words"), [(np.float32, "floating point"), (np.uint32, "32-bit integers"), (np.int16, "signed")]
)
def test_kinds_that_are_not_read(dtype, words):
    data = tiff(np.ones((8, 8), dtype))
    with pytest.raises(Unreadable, match=words):
        decode(data, channels=1)
    with pytest.raises(Unreadable, match=words):
        read_header(data)


def test_min_side_of_bands():
    image = noise(64, 96, 5, dtype=np.uint16)
    data = tiff(image, photometric="minisblack", planarconfig="contig")
    assert decode(data, channels=5, bits=16, min_side=30).shape == (32, 48, 5)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits"])
def test_compressed_bands(compression):
    bands = noise(21, 30, 5)
    data = tiff(bands, photometric="minisblack", planarconfig="contig", compression=compression)
    np.testing.assert_array_equal(decode(data, channels=5), bands)


def pictures() -> dict[str, bytes]:
    colour = Image.fromarray(np.kron(noise(5, 7, 3), np.ones((8, 8, 1), np.uint8)))
    files = {}
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        for mode in ("RGB", "L", "CMYK", "RGBA") + (() if compression == "jpeg" else ("P", "1")):
            image = colour.quantize(30) if mode == "P" else colour.convert(mode)
            out = io.BytesIO()
            image.save(out, "TIFF", compression=compression)
            files[f"{mode} {compression}"] = out.getvalue()
    for compression in ("group3", "group4", "tiff_ccitt"):
        out = io.BytesIO()
        colour.convert("1").save(out, "TIFF", compression=compression)
        files[compression] = out.getvalue()
    out = io.BytesIO()
    colour.convert("YCbCr").save(out, "TIFF")
    return files | {"YCbCr": out.getvalue()}


PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_pillows(name):
    image = Image.open(io.BytesIO(PICTURES[name]))
    np.testing.assert_array_equal(decode(PICTURES[name], channels=3), np.array(image.convert("RGB")))

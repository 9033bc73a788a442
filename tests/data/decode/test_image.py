import io
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from maskery.data.decode.image import Header, decode, read_header
from maskery.data.decode.unreadable import Unreadable

PHOTOS = Path(__file__).parents[3] / ".." / "shared" / "data" / "photos"
H, W = 37, 53


def picture(channels: int, dtype=np.uint8, height: int = H, width: int = W) -> np.ndarray:
    """A smooth gradient with noise, the whole range of `dtype`."""
    rng = np.random.default_rng(channels)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (5 + c)) + np.cos(y / (7 + c)) for c in range(channels)], 2) / 4 + 0.5
    noisy = np.clip(waves + rng.normal(0, 0.02, waves.shape), 0, 1) * np.iinfo(dtype).max
    noisy[0, 0], noisy[0, 1] = 0, np.iinfo(dtype).max
    return np.rint(noisy).astype(dtype)


def encode(array: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array.squeeze())
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


RGB = Image.fromarray(picture(3))
GREY = Image.fromarray(picture(1)[:, :, 0])
RGBA = Image.fromarray(picture(4))
PALETTE = RGB.quantize(32)
FILES = {  # name -> (bytes, channels, bits, format)
    "jpeg": (encode(RGB, "JPEG"), 3, 8, "JPEG"),
    "progressive jpeg": (encode(RGB, "JPEG", progressive=True), 3, 8, "JPEG"),
    "grey jpeg": (encode(GREY, "JPEG"), 1, 8, "JPEG"),
    "cmyk jpeg": (encode(RGB.convert("CMYK"), "JPEG"), 3, 8, "JPEG"),
    "png": (encode(RGB, "PNG"), 3, 8, "PNG"),
    "rgba png": (encode(RGBA, "PNG"), 3, 8, "PNG"),
    "grey png": (encode(GREY, "PNG"), 1, 8, "PNG"),
    "grey-alpha png": (encode(RGBA.convert("LA"), "PNG"), 1, 8, "PNG"),
    "palette png": (encode(PALETTE, "PNG"), 3, 8, "PNG"),
    "1-bit png": (encode(GREY.convert("1"), "PNG"), 1, 8, "PNG"),
    "16-bit grey png": (encode(picture(1, np.uint16), "PNG"), 1, 16, "PNG"),
    "16-bit rgb png": (imagecodecs.png_encode(picture(3, np.uint16)), 3, 16, "PNG"),
    "16-bit rgba png": (imagecodecs.png_encode(picture(4, np.uint16)), 3, 16, "PNG"),
    "16-bit grey-alpha png": (imagecodecs.png_encode(picture(2, np.uint16)), 1, 16, "PNG"),
    "webp": (encode(RGB, "WEBP"), 3, 8, "WEBP"),
    "lossless rgba webp": (encode(RGBA, "WEBP", lossless=True), 3, 8, "WEBP"),
    "bmp": (encode(RGB, "BMP"), 3, 8, "BMP"),
    "grey bmp": (encode(GREY, "BMP"), 1, 8, "BMP"),
    "1-bit bmp": (encode(GREY.convert("1"), "BMP"), 1, 8, "BMP"),
    "palette gif": (encode(PALETTE, "GIF"), 3, 8, "GIF"),
    "animated gif": (encode(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), 3, 8, "GIF"),
    "tiff": (encode(RGB, "TIFF"), 3, 8, "TIFF"),
    "lzw tiff": (encode(RGB, "TIFF", compression="tiff_lzw"), 3, 8, "TIFF"),
    "jpeg tiff": (encode(RGB, "TIFF", compression="jpeg"), 3, 8, "TIFF"),
    "rgba tiff": (encode(RGBA, "TIFF"), 3, 8, "TIFF"),
    "grey tiff": (encode(GREY, "TIFF"), 1, 8, "TIFF"),
    "1-bit tiff": (encode(GREY.convert("1"), "TIFF", compression="group4"), 1, 8, "TIFF"),
    "palette tiff": (encode(PALETTE, "TIFF"), 3, 8, "TIFF"),
    "cmyk tiff": (encode(RGB.convert("CMYK"), "TIFF"), 3, 8, "TIFF"),
    "16-bit grey tiff": (encode(picture(1, np.uint16), "TIFF"), 1, 16, "TIFF"),
    "16-bit rgb tiff": (tiff(picture(3, np.uint16), photometric="rgb", compression="zlib"), 3, 16, "TIFF"),
    "7 bands tiff": (tiff(picture(7), photometric="minisblack", planarconfig="contig"), 7, 8, "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_header_tells_what_decode_gives(name):
    data, channels, bits, format = FILES[name]
    assert read_header(data) == Header(H, W, channels, bits, 1, format)
    image = decode(data, channels=channels, bits=bits)
    assert image.shape == (H, W, channels)
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert image.flags.c_contiguous
    assert image.std() > 10


@pytest.mark.parametrize("name", [n for n in FILES if "16-bit" not in n and "bands" not in n])
def test_8_bit_files_are_as_pillow_converts_them(name):
    data, channels, _, _ = FILES[name]
    image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data, channels=3), np.array(image.convert("RGB")))
    grey = image.convert("L") if channels == 1 else image.convert("RGB").convert("L")
    np.testing.assert_array_equal(decode(data, channels=1), np.array(grey)[:, :, None])


def test_16_bit_values_are_kept():
    grey, rgb = picture(1, np.uint16), picture(3, np.uint16)
    np.testing.assert_array_equal(decode(FILES["16-bit grey png"][0], channels=1, bits=16), grey)
    np.testing.assert_array_equal(decode(FILES["16-bit rgb png"][0], channels=3, bits=16), rgb)
    np.testing.assert_array_equal(decode(FILES["16-bit grey png"][0], channels=3, bits=16), np.repeat(grey, 3, 2))


def test_16_bits_come_down_to_8_rounded_and_8_go_up_by_257():
    grey = picture(1, np.uint16)
    want = np.rint(grey / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(decode(FILES["16-bit grey png"][0], channels=1), want)
    np.testing.assert_array_equal(
        decode(FILES["grey png"][0], channels=1, bits=16), picture(1).astype(np.uint16) * np.uint16(257)
    )


def test_transparency_is_dropped_and_four_channels_on_request():
    stored = picture(4)
    np.testing.assert_array_equal(decode(FILES["rgba png"][0], channels=3), stored[:, :, :3])
    np.testing.assert_array_equal(decode(FILES["rgba png"][0], channels=4), stored)
    np.testing.assert_array_equal(decode(FILES["rgba tiff"][0], channels=4), stored)
    np.testing.assert_array_equal(decode(FILES["16-bit rgba png"][0], channels=4, bits=16), picture(4, np.uint16))


def test_a_transparent_colour_of_16_bits_is_no_alpha():
    data, colour = FILES["16-bit rgb png"][0], bytes(6)
    chunk = b"\0\0\0\6tRNS" + colour + zlib.crc32(b"tRNS" + colour).to_bytes(4, "big")
    image = decode(data[:33] + chunk + data[33:], channels=3, bits=16)
    np.testing.assert_array_equal(image, picture(3, np.uint16))


def test_the_first_frame_of_an_animation():
    np.testing.assert_array_equal(
        decode(FILES["animated gif"][0], channels=3), decode(FILES["palette gif"][0], channels=3)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_as_exif_transpose_does_it(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, format, exif=exif)
    want = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(data, channels=3), want)
    header = read_header(data)
    assert (header.height, header.width) == want.shape[:2] == ((W, H) if orientation > 4 else (H, W))


def test_exif_behind_the_pixels_of_a_png():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(RGB, "PNG", exif=exif)
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    moved = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    assert read_header(moved).height == W
    np.testing.assert_array_equal(decode(moved, channels=3), decode(data, channels=3))


def test_broken_exif_costs_no_picture():
    data = encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffrubbish")
    np.testing.assert_array_equal(decode(data, channels=3), decode(FILES["jpeg"][0], channels=3))


@pytest.mark.parametrize("min_side", [1, 20, 64, 100, 299, 300, 301, 5000])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "16-bit"])
def test_min_side_is_kept_to(format, min_side):
    array = picture(3, np.uint16 if format == "16-bit" else np.uint8, 300, 421)
    data = imagecodecs.png_encode(array) if format == "16-bit" else encode(array, format)
    image = decode(data, channels=3, min_side=min_side)
    height, width = image.shape[:2]
    assert height >= min(min_side, 300)
    assert abs(width / height - 421 / 300) < 0.5 / min(min_side, 300) * 421 / 300 * 2
    if 2 * min_side <= 300:
        assert height < 2 * min_side + 1, "reduced as far as a whole factor allows"
    reduced = np.asarray(Image.fromarray((array >> 8).astype(np.uint8) if format == "16-bit" else array))
    assert abs(image.mean() - reduced.mean()) < 4


def test_min_side_of_a_jpeg_beyond_what_its_dct_gives():
    data = encode(picture(3, height=900, width=1200), "JPEG")
    height, width = decode(data, channels=3, min_side=30).shape[:2]
    assert 30 <= height < 60
    assert abs(width - height * 4 / 3) <= 1


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_unreadable_or_whole(name):
    data, channels, bits, _ = FILES[name]
    whole = decode(data, channels=channels, bits=bits)
    reasons = []
    for end in [*range(0, 64, 7), *np.linspace(64, len(data) - 1, 40).astype(int)]:
        try:
            image = decode(data[:end], channels=channels, bits=bits)
        except Unreadable as error:
            reasons.append(str(error))
        else:
            np.testing.assert_array_equal(image, whole, err_msg=f"cut at {end} of {len(data)}")
    assert len(reasons) > (20 if "animated" in name else 40), "nearly every cut hurts"
    assert "\n" not in "".join(reasons)


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(list(FILES)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.floats(0.1, 1) | st.just(1.0),
    early=st.booleans(),
)
@example(name="tiff", flips=[(0.1171875, 0)], end=1.0, early=True)  # 0 pixels high
@example(name="rgba tiff", flips=[(0.1171875, 0)], end=1.0, early=True)
def test_damaged_files_give_an_array_or_unreadable(name, flips, end, early):
    data = bytearray(FILES[name][0])
    reach = min(200, len(data)) if early else len(data)  # half of the time only the headers are hit
    for place, value in flips:
        data[int(place * (reach - 1))] = value
    damaged = bytes(data[: int(end * len(data))])
    for call in (
        lambda: decode(damaged, channels=3).nbytes,
        lambda: decode(damaged, channels=1, bits=16, min_side=9).nbytes,
        lambda: decode(damaged, channels=2, pages="channels").nbytes,
        lambda: read_header(damaged).height,
        lambda: read_header(damaged, "channels").height,
    ):
        reason = "fine"
        try:
            assert call() > 0
        except Unreadable as error:
            reason = str(error)
        assert reason
        assert "\n" not in reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>", "not an image"),
        (FILES["jpeg"][0][:600], "truncated JPEG"),
        (b"\xff\xd8\xff\xdb\0\x04" + bytes(200), "damaged JPEG"),
        (FILES["16-bit rgb png"][0].replace(b"IHDR", b"IHDX"), "damaged PNG"),
    ],
)
def test_reasons(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data, channels=3)
    if reason != "truncated JPEG":
        with pytest.raises(Unreadable, match=reason):
            read_header(data)


def test_a_wrong_checksum():
    data = bytearray(FILES["16-bit rgb png"][0])
    data[len(data) // 2] ^= 1
    with pytest.raises(Unreadable, match="damaged PNG"):
        decode(bytes(data), channels=3)


def test_other_channel_counts_name_both():
    with pytest.raises(Unreadable, match="7 channels where 3 are wanted"):
        decode(FILES["7 bands tiff"][0], channels=3)
    with pytest.raises(Unreadable, match="1 channels where 5 are wanted"):
        decode(FILES["grey png"][0], channels=5)


def test_decompression_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    for name in ("png", "tiff", "7 bands tiff"):
        with pytest.raises(Unreadable, match="bomb"):
            decode(FILES[name][0], channels=3)
        with pytest.raises(Unreadable, match="bomb"):
            read_header(FILES[name][0])


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"bits": 12}, {"pages": "all"}, {"min_side": 0}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))) as caught:
        decode(FILES["png"][0], **{"channels": 3, **wrong})
    assert not isinstance(caught.value, Unreadable)


def test_no_warnings_from_any_thread_and_the_filters_stay():
    transparent = Image.fromarray(picture(1)[:, :, 0]).convert("P")
    data = encode(transparent, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: decode(data, channels=3), range(40)))
        assert warnings.filters == filters
    assert not caught


def test_photographs():
    files = sorted(PHOTOS.glob("*.jpg"))[:10] + sorted(PHOTOS.glob("*.JPEG"))[:10]
    if not files:
        pytest.skip(f"no photographs in {PHOTOS}")
    for file in files:
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        header = read_header(file.read_bytes())
        assert (header.width, header.height) == image.size
        np.testing.assert_array_equal(decode(file.read_bytes(), channels=3), np.array(image))

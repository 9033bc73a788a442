"""TIFF: pages and pixels, by tifffile with the codecs of imagecodecs; YCbCr outside JPEG by Pillow."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, TiffImagePlugin
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from . import pixels
from .unreadable import Unreadable

Kind = Literal["grey", "palette", "rgb", "cmyk", "bands"]
_PHOTOMETRIC: dict[int, Kind] = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb"}
# Tags without which the pixels come out wrong: layout, depth, compression, colours, places of the data.
_NEEDED = {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 530}
_PLAIN = {"grey": 1, "palette": 1, "rgb": 3, "cmyk": 4}  # samples a pixel without alpha


# ------------------------------------------------------------------------------------------------------------ the pages
@dataclass(frozen=True)
class Page:
    """One picture of a file. `channels` as it is decoded: grey 1, rgb, palette and cmyk 3, bands n."""

    height: int  # as stored, before `orientation`
    width: int
    samples: int
    bits: int
    kind: Kind
    inverted: bool  # 0 is white
    orientation: int

    @property
    def channels(self) -> int:
        return {"grey": 1, "bands": self.samples}.get(self.kind, 3)

    def __str__(self) -> str:
        return f"{self.width} x {self.height} {self.kind} with {self.samples} samples of {self.bits} bits"

    @property
    def alpha(self) -> bool:
        return self.kind != "bands" and self.samples == _PLAIN[self.kind] + 1


def pixel_limit() -> int | None:
    """Pillow's limit against decompression bombs, which a user may move with `PIL.Image.MAX_IMAGE_PIXELS`."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * int(Image.MAX_IMAGE_PIXELS)


def describe(page: TiffPage) -> Page:
    """Raises `Unreadable` for kinds that are not read, for too many pixels, and for pages that are not complete."""
    _check_complete(page)
    bits = page.bitspersample
    if not isinstance(bits, int) or not 1 <= bits <= 16 or page.sampleformat not in (1, 4):
        names = {2: "signed integers", 3: "floating point numbers", 5: "complex numbers", 6: "complex numbers"}
        what = names.get(int(page.sampleformat), "integers")
        raise Unreadable(f"TIFF of {bits}-bit {what}: only unsigned integers of 1 to 16 bits are read")
    photometric, samples = int(page.photometric), page.samplesperpixel
    kind = _PHOTOMETRIC.get(photometric)
    if kind is None or page.imagedepth != 1:
        raise Unreadable(f"TIFF of a kind that is not read (photometric interpretation {photometric})")
    extra = tuple(int(e) for e in page.extrasamples)
    # Four samples of which the last is called neither alpha nor anything else are bands (red, green, blue, infrared).
    has_alpha = samples == _PLAIN[kind] + 1 and (extra[:1] in ((1,), (2,)) or (kind == "rgb" and not extra))
    if samples != _PLAIN[kind] and not has_alpha:
        kind = "bands"
    if kind == "palette" and bits > 8:
        raise Unreadable("TIFF with a 16-bit palette: only 8-bit palettes are read")
    tag = page.tags.get(274)
    orientation = tag.value if tag is not None and isinstance(tag.value, int) else 1
    limit = pixel_limit()
    if limit is not None and page.imagewidth * page.imagelength > limit:
        raise Unreadable(
            f"TIFF of {page.imagewidth} x {page.imagelength} pixels is over the limit of {limit}: a decompression bomb?"
        )
    return Page(page.imagelength, page.imagewidth, samples, bits, kind, photometric == 0, orientation)


def _check_complete(page: TiffPage) -> None:
    """Raises `Unreadable` where tifffile would fill in: it drops broken tags, and missing segments become 0."""
    file, format = page.parent.filehandle, page.parent.tiff
    file.seek(page.offset)
    order = "big" if page.parent.byteorder == ">" else "little"
    count = int.from_bytes(file.read(format.tagnosize), order)
    entries = file.read(count * format.tagsize)
    written = {int.from_bytes(entries[k : k + 2], order) for k in range(0, len(entries), format.tagsize)}
    lost = sorted(code for code in written & _NEEDED if code not in page.tags)
    if lost:
        raise Unreadable(f"truncated or damaged TIFF: tag {lost[0]} cannot be read")
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) != len(counts) or not offsets or len(offsets) < int(np.prod(page.chunked)):
        raise Unreadable("truncated or damaged TIFF: the places of image data are missing")
    for offset, size in zip(offsets, counts, strict=True):
        if offset + size > file.size:
            raise Unreadable(f"truncated TIFF: image data reach to byte {offset + size} of {file.size}")


def full_pages(tif: TiffFile) -> Iterator[int]:
    """Positions of the pages that are pictures of their own: no thumbnails, no masks; the first page if none is."""
    i = None
    for i in (k for k in range(len(tif.pages)) if not int(page_at(tif, k).subfiletype) & 5):
        yield i
    if i is None:
        yield 0


def page_at(tif: TiffFile, i: int) -> TiffPage:
    page = tif.pages.get(i)
    assert isinstance(page, TiffPage)
    return page


def survey_pages(file: BinaryIO, *, stacked: bool) -> tuple[Page, int]:
    """The first page and the number of pages. `stacked`: the pages are one picture's channels, so all must be alike."""
    with TiffFile(file) as tif:
        indices = list(full_pages(tif))
        first = describe(page_at(tif, indices[0]))
        if stacked:
            for i in indices[1:]:
                check_alike(first, describe(page_at(tif, i)), i)
        return first, len(indices)


def check_alike(first: Page, other: Page, i: int) -> None:
    """Raises `Unreadable` when page `i`, counted from 0, is unlike the first."""
    if other != first:
        raise Unreadable(f"TIFF pages that differ cannot be stacked: the first is {first}, page {i + 1} is {other}")


# ----------------------------------------------------------------------------------------------------------- the pixels
def decode_tiff(file: BinaryIO, *, stacked: bool, samples: int) -> np.ndarray:
    """[H, W, C] upright, uint8 or uint16 by the file's own depth; grey C = 1, colour 3, bands and stacked pages n.

    An alpha channel is dropped, unless the caller wants `samples` = 4 of an RGBA picture.
    """
    with TiffFile(file) as tif:
        indices = list(islice(full_pages(tif), None if stacked else 1))
        first = describe(page_at(tif, indices[0]))
        limit = pixel_limit()
        if limit is not None and first.width * first.height * len(indices) * first.samples > 4 * limit:
            raise Unreadable(f"TIFF of {len(indices)} pages, each {first}: too large to decode")
        layers = []
        for i in indices:
            page = page_at(tif, i)
            check_alike(first, describe(page), i)
            if page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
                layers.append(_by_pillow(file, i))
            else:
                layers.append(_by_tifffile(page, first, alpha=first.kind == "rgb" and samples == 4))
    return np.concatenate(layers, axis=2) if len(layers) > 1 else layers[0]


def _by_pillow(file: BinaryIO, i: int) -> np.ndarray:
    """[H, W, 3], colours converted and turned upright."""
    file.seek(0)
    image = TiffImagePlugin.TiffImageFile(file)
    image.seek(i)
    return np.array(image.convert("RGB"))


def _by_tifffile(page: TiffPage, facts: Page, *, alpha: bool) -> np.ndarray:
    array = page.asarray(squeeze=False, maxworkers=1)  # [planes, depth 1, H, W, samples]
    array = np.moveaxis(array[:, 0], 0, 2).reshape(facts.height, facts.width, facts.samples)
    if facts.kind == "palette":
        assert page.colormap is not None
        colours = (page.colormap >> 8).astype(np.uint8)  # [3, 2 ** bits]
        return pixels.upright(np.moveaxis(colours[:, array[:, :, 0]], 0, 2), facts.orientation)
    array = pixels.stretch(array, facts.bits)
    if facts.inverted and facts.kind == "grey":
        array = np.iinfo(array.dtype).max - array
    if facts.kind == "cmyk":
        array = pixels.rgb_of_cmyk(array[:, :, :4])
    elif facts.alpha and not alpha:
        array = array[:, :, :-1]
    return pixels.upright(array, facts.orientation)

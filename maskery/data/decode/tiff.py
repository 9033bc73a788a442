"""TIFF pixels: Pillow decodes what it can in full depth, tifffile the rest."""

from itertools import islice
from typing import BinaryIO

import numpy as np
from PIL import TiffImagePlugin, UnidentifiedImageError
from tifffile import COMPRESSION, PREDICTOR, TiffFile, TiffPage

from . import pixels
from .tiff_page import Page, describe, full_pages, must_match, page_at, pixel_limit, words
from .unreadable import Unreadable


def decode_tiff(file: BinaryIO, *, stacked: bool, samples: int) -> np.ndarray:
    """[H, W, C] upright, uint8 or uint16 by the file's own depth; grey C = 1, colour 3, bands and stacked pages n.

    An alpha channel is dropped, unless the caller wants `samples` = 4 of an RGBA picture.
    """
    with TiffFile(file) as tif:
        keep = list(islice(full_pages(tif), None if stacked else 1))
        first = describe(page_at(tif, keep[0]))
        limit = pixel_limit()
        if limit is not None and first.width * first.height * len(keep) * first.samples > 4 * limit:
            raise Unreadable(f"TIFF of {len(keep)} pages, each {words(first)}: too large to decode")
        layers = []
        for i in keep:
            page = page_at(tif, i)
            must_match(first, describe(page), i)
            raw = first.alpha and first.kind == "rgb" and samples == 4
            layer = None if raw else _by_pillow(file, i, first)
            layers.append(_by_tifffile(page, first, raw=raw) if layer is None else layer)
    return np.concatenate(layers, axis=2) if len(layers) > 1 else layers[0]


def _by_pillow(file: BinaryIO, i: int, page: Page) -> np.ndarray | None:
    """What Pillow gives in full depth, None for all else. Pillow turns the picture upright itself."""
    deep = page.kind == "grey" and page.samples == 1 and page.bits in (12, 16)
    if page.kind == "bands" or (page.bits > 8 and not deep):
        return None
    file.seek(0)
    try:
        image = TiffImagePlugin.TiffImageFile(file)
    except (SyntaxError, UnidentifiedImageError):  # a layout that Pillow does not know
        return None
    image.seek(i)
    if deep:
        if not image.mode.startswith("I;16"):
            return None
        array = pixels.stretch(np.array(image)[:, :, None], page.bits)
        return np.uint16(65535) - array if page.inverted else array
    flat = np.array(image.convert("L" if page.kind == "grey" else "RGB"))
    return flat.reshape(*flat.shape[:2], -1)


def _by_tifffile(page: TiffPage, facts: Page, *, raw: bool) -> np.ndarray:
    if facts.kind == "palette":
        raise Unreadable(f"TIFF with a palette of {facts.bits} bits in a layout that is not read")
    try:
        array = page.asarray(squeeze=False, maxworkers=1)  # [planes, depth 1, H, W, samples]
    except (ImportError, ValueError) as error:
        # Without the codec tifffile says so, or tries a module of a later Python's standard library.
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            codec = f"compression {COMPRESSION(page.compression).name}, predictor {PREDICTOR(page.predictor).name}"
            raise Unreadable(f"TIFF with {codec} needs imagecodecs: pip install 'maskery[tiff]'") from error
        raise
    array = np.moveaxis(array[:, 0], 0, 2).reshape(facts.height, facts.width, facts.samples)
    array = pixels.stretch(array, facts.bits)
    if facts.inverted and facts.kind == "grey":
        array = np.iinfo(array.dtype).max - array
    if facts.kind == "cmyk":
        array = pixels.rgb_of_cmyk(array)
    elif facts.alpha and not raw:
        array = array[:, :, :-1]
    return pixels.upright(array, facts.orientation)

"""TIFF pixels, decoded by tifffile with the codecs of imagecodecs; YCbCr outside JPEG by Pillow."""

from itertools import islice
from typing import BinaryIO

import numpy as np
from PIL import TiffImagePlugin
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from . import pixels
from .tiff_page import Page, check_alike, describe, full_pages, page_at, pixel_limit
from .unreadable import Unreadable


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

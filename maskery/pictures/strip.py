"""Strips of images: a row per image, a column per way of showing it (the image, its labels, the prediction).

B images, C channels, H x W pixels
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.dataset import ImageData, spread
from ..data.views import to_float
from ..outputs import partial_path
from .segments import legend

GAP, INK, PAPER = 6, (40, 40, 40), (255, 255, 255)
TILE = 160  # about the pixels that small images are enlarged to
SIDE, EXAMPLES = 320, 8  # pixels of the long side of a whole image; images in a strip of them
CHIP, LINE = 11, 18  # side of a colour sample of the legend, and the height of one of its lines, in pixels


def displayable(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert columns [B, C, H, W] in [0, 1] to displayable RGB, [B, 3, H, W] uint8.

    Columns of three channels are shown as they are. Others are stretched, each image to the 1st .. 99th percentile of
    its first column: one channel as grey, two as red and green, four and more by their first three.
    """
    first = next(iter(columns.values()))
    shown = {}
    for caption, images in columns.items():
        x, channels = images.float().cpu(), images.shape[1]
        if channels != 3:
            low, high = (torch.quantile(first.float().cpu().flatten(1), q, dim=1) for q in (0.01, 0.99))
            x = (x - low.view(-1, 1, 1, 1)) / (high - low).clamp_min(1e-6).view(-1, 1, 1, 1)
            x = torch.cat([x, 0 * x[:, :1]], dim=1) if channels == 2 else x[:, :3].expand(-1, 3, -1, -1)
        shown[caption] = (x.clamp(0, 1) * 255).round().to(torch.uint8)
    return shown


def to_picture(image: Tensor) -> Image.Image:
    """[3, H, W] uint8 as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def strip(columns: dict[str, Tensor], path: Path, title: str = "", colours: Mapping[str, str] | None = None) -> Path:
    """Write columns {caption: [B, C, H, W] in [0, 1]} as one PNG; small images are enlarged to about TILE pixels.

    `colours`: {name: #rrggbb}, a legend drawn below the columns.
    """
    shown = displayable(columns)
    rows, _, height, width = next(iter(shown.values())).shape
    scale = max(1, round(TILE / max(height, width)))
    height, width = height * scale, width * scale
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)

    captions = {caption: textwrap.wrap(caption, max(10, width // 7)) for caption in shown}
    across = GAP + len(shown) * (width + GAP)
    titles = textwrap.wrap(title, max(10, across // 8))
    head = 30 + LINE * (len(titles) - 1) if titles else GAP
    caption_height = 15 * max(len(lines) for lines in captions.values()) + GAP
    down = head + caption_height + rows * (height + GAP)
    entries = legend_layout(colours or {}, across, small)
    below = LINE * (1 + max(row for _, _, row in entries.values())) if entries else 0
    sheet = Image.new("RGB", (across, down + below), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 6), "\n".join(titles), INK, font, spacing=2)
    for column, (caption, images) in enumerate(shown.items()):
        left = GAP + column * (width + GAP)
        pen.text((left, head), "\n".join(captions[caption]), INK, small)
        for row, image in enumerate(images):
            picture = to_picture(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, head + caption_height + row * (height + GAP)))
    for name, (colour, left, row) in entries.items():
        top = down + row * LINE
        pen.rectangle((left, top, left + CHIP, top + CHIP), colour)
        pen.text((left + CHIP + 4, top - 2), name, INK, small)
    with partial_path(path) as partial:
        sheet.save(partial, format="PNG")
    return path


def legend_layout(
    colours: Mapping[str, str], across: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> dict[str, tuple[str, int, int]]:
    """{name: (colour, pixels from the left, line)}: each line holds as many as fit."""
    entries, left, row = {}, GAP, 0
    for name, colour in colours.items():
        width = CHIP + 4 + round(font.getlength(name)) + 2 * GAP
        if left > GAP and left + width > across:
            left, row = GAP, row + 1
        entries[name] = (colour, left, row)
        left += width
    return entries


def whole_image(data: ImageData, i: int, size: Sequence[int] | None = None) -> Tensor:
    """Read image `i` uncropped, [C, H, W] in [0, 1]; resized to `size` (height, width) if given."""
    array = data.images.open(i).at(1.0).array
    image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))
    return (image if size is None else F.interpolate(image, tuple(size), mode="area"))[0]


class ExampleStrip:
    """A strip of some of the uncropped images `indices`, evenly spread, whose rows are added one by one."""

    def __init__(self, indices: np.ndarray, captions: Sequence[str]):
        self.captions, self.shown = captions, set(spread(indices, EXAMPLES).tolist())
        self.rows: list[list[Tensor]] = []
        self.classes: set[int] = set()  # that occur in the rows

    def add(self, columns: Sequence[Tensor], classes: Iterable[int]) -> None:
        """Add a row: one picture [C, H, W] in [0, 1] per caption, and the classes that occur in it."""
        self.rows.append([scaled(column[None]) for column in columns])
        self.classes.update(classes)

    def write(self, path: Path, title: str, names: Sequence[str]) -> None:
        columns = zip(self.captions, zip(*self.rows, strict=True), strict=True)
        pictures = {caption: padded(images) for caption, images in columns}
        strip(pictures, path, title, legend(names, self.classes))


def scaled(image: Tensor) -> Tensor:
    """Resize an image [1, C, H, W] to a long side of SIDE without mixing colours."""
    longest = max(image.shape[2:])
    return F.interpolate(image, [max(1, round(n * SIDE / longest)) for n in image.shape[2:]], mode="nearest")


def padded(images: Sequence[Tensor]) -> Tensor:
    """Centre images [1, C, H_i, W_i] on white ones of one size, [B, C, H, W]."""
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    same_size = []
    for image in images:
        down, right = height - image.shape[2], width - image.shape[3]
        same_size.append(F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0))
    return torch.cat(same_size)

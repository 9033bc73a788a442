"""Questions about images, what people answered and what a network did: a page that needs nothing beside it, a picture.

One image an entry, with some of the questions about it.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures.strip import GAP, INK, PAPER, displayable
from .page import render

SIDE = 160  # pixels of an image's long side, about
RIGHT, PARTLY, WRONG = (20, 130, 70), (176, 120, 0), (190, 40, 40)


@dataclass(frozen=True)
class Said:
    question: str
    answers: dict[str, int]  # of the people, and how many gave each
    answer: str  # of the network
    sure: float
    score: float | None  # soft accuracy; None where nobody knows

    @property
    def verdict(self) -> tuple[str, tuple[int, int, int]]:
        if self.score is None:
            return "not known", (96, 102, 109)
        if self.score >= 1:
            return "right", RIGHT
        return ("wrong", WRONG) if self.score == 0 else (f"worth {self.score:.1f}", PARTLY)

    @property
    def people(self) -> str:
        named = [f"{answer} ({n})" if len(self.answers) > 1 else answer for answer, n in self.answers.items()]
        return ", ".join(named)


@dataclass(frozen=True)
class Entry:
    name: str
    image: Tensor  # [C, H, W] in [0, 1]
    said: Sequence[Said]

    def picture(self) -> Image.Image:
        """About SIDE pixels; small images are enlarged without mixing colours."""
        shown = displayable({"image": self.image[None]})["image"][0]
        picture = Image.fromarray(np.ascontiguousarray(shown.permute(1, 2, 0).numpy()))
        factor = SIDE / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def page(entries: Sequence[Entry], path: Path, title: str, lines: Sequence[str]) -> Path:
    """One HTML file; whatever the data say stands in it as text."""
    cards = [{"name": entry.name, "uri": _uri(entry.picture()), "said": entry.said} for entry in entries]
    half = path.with_suffix(".writing")
    half.write_text(render("answers.html", title=title, lines=lines, cards=cards), encoding="utf-8")
    half.replace(path)
    return path


def _uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def sheet(entries: Sequence[Entry], path: Path, title: str, columns: int = 3, each: int = 4) -> Path:
    """The first questions of every entry beside its image, as one PNG."""
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    wide, high, head = SIDE + GAP + 230, SIDE + 2 * GAP, 34
    down = -(-len(entries) // columns)
    picture = Image.new("RGB", (GAP + columns * (wide + GAP), head + down * high), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((GAP, 8), title, INK, font)
    for i, entry in enumerate(entries):
        left, top = GAP + i % columns * (wide + GAP), head + i // columns * high
        picture.paste(entry.picture(), (left, top))
        lines = []
        for one in entry.said[:each]:
            verdict, shade = one.verdict
            said = f"{one.answer} ({verdict}" + (f": {one.people})" if one.score == 0 else ")")
            lines += [(line, INK) for line in textwrap.wrap(printable(one.question), 38)[:2]]
            lines += [(line, shade) for line in textwrap.wrap(printable(said), 38)[:1]]
        for row, (line, shade) in enumerate(lines[: SIDE // 13]):
            pen.text((left + SIDE + GAP, top + 13 * row), line, shade, small)
    half = path.with_suffix(".writing")
    picture.save(half, format="PNG")
    half.replace(path)
    return path


def printable(text: str) -> str:
    """As the built-in font can draw it."""
    return text.encode("latin-1", "replace").decode("latin-1")

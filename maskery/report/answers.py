"""Questions about images, what people answered and what a network did: a page that needs nothing beside it, a picture.

One image an entry, with some of the questions about it.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .comparison import STYLE
from .pictures import GAP, INK, PAPER, displayable

SIDE = 160  # pixels of an image's long side, about
RIGHT, PARTLY, WRONG = (20, 130, 70), (176, 120, 0), (190, 40, 40)
CARDS = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1.4rem 1.2rem }
.card img { image-rendering: pixelated; width: 10rem } .card ul { list-style: none; margin: .5rem 0 0; padding: 0 }
.card li { margin: .45rem 0; padding-left: .6rem; border-left: 4px solid; overflow-wrap: anywhere }
"""


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
    cards = "".join(_card(entry) for entry in entries)
    said = "".join(f"<p class='soft'>{escape(line)}</p>" for line in lines)
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}{CARDS}</style></head><body>
<p class="soft">Maskery, visual question answering</p><h1>{escape(title)}</h1>
{said}
<div class="cards">{cards}</div>
</body></html>
"""
    half = path.with_suffix(".writing")
    half.write_text(text, encoding="utf-8", errors="replace")
    half.replace(path)
    return path


def _card(entry: Entry) -> str:
    data = io.BytesIO()
    entry.picture().save(data, format="PNG")
    shown = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    items = ""
    for one in entry.said:
        verdict, shade = one.verdict
        people = f"; people: {escape(one.people)}" if one.answers else ""
        items += (
            f'<li style="border-color: rgb{shade}">{escape(one.question)}<br><b>{escape(one.answer)}</b> '
            f'<span class="soft">{one.sure:.0%} sure, {verdict}{people}</span></li>'
        )
    return (
        f'<figure class="card"><img alt="{escape(entry.name, quote=True)}" src="{shown}"><ul>{items}</ul>'
        f'<figcaption class="soft">{escape(entry.name)}</figcaption></figure>'
    )


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

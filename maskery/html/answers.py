"""Questions about images, people's answers and a network's: an HTML page that needs no other file, and a picture."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..outputs import partial_path, write_file
from ..pictures.strip import GAP, INK, PAPER, displayable, to_picture
from .page import data_uri, render

SIDE = 160  # pixels of an image's long side, about
COLUMNS, QUESTIONS, WIDTH = 3, 4, 230  # of the picture: entries in a row, questions of each, pixels of their text
LETTERS, LINE, HEAD = 38, 13, 34  # of a line of text; pixels of a line, and of the title
RIGHT, PARTLY, WRONG, UNKNOWN = (20, 130, 70), (176, 120, 0), (190, 40, 40), (96, 102, 109)


@dataclass(frozen=True)
class Answer:
    """A network's answer to a question, and people's."""

    question: str
    people: dict[str, int]  # each different answer, and how many gave it
    text: str
    confidence: float
    score: float | None  # soft accuracy; None where no person answered

    @property
    def verdict(self) -> tuple[str, tuple[int, int, int]]:
        """In words, and its colour."""
        if self.score is None:
            return "not known", UNKNOWN
        if self.score >= 1:
            return "right", RIGHT
        return ("wrong", WRONG) if self.score == 0 else (f"worth {self.score:.1f}", PARTLY)

    @property
    def people_text(self) -> str:
        return ", ".join(f"{answer} ({n})" if len(self.people) > 1 else answer for answer, n in self.people.items())


@dataclass(frozen=True)
class Entry:
    """An image, with some of the questions about it."""

    name: str
    image: Tensor  # [C, H, W] in [0, 1]
    answers: Sequence[Answer]

    def picture(self) -> Image.Image:
        """The image with a long side of about SIDE; small images are enlarged without mixing colours."""
        picture = to_picture(displayable({"image": self.image[None]})["image"][0])
        factor = SIDE / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def write_page(entries: Sequence[Entry], path: Path, title: str, lines: Sequence[str]) -> None:
    """Write one HTML file; names, questions and answers are escaped."""
    cards = [
        {"name": entry.name, "uri": data_uri(entry.picture(), "PNG"), "answers": entry.answers} for entry in entries
    ]
    write_file(path, render("answers.html", title=title, lines=lines, cards=cards).encode())


def write_sheet(entries: Sequence[Entry], path: Path, title: str) -> None:
    """Write the first questions of every entry beside its image, as one PNG."""
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    width, height = SIDE + GAP + WIDTH, SIDE + 2 * GAP
    sheet = Image.new("RGB", (GAP + COLUMNS * (width + GAP), HEAD + -(-len(entries) // COLUMNS) * height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 8), title, INK, font)
    for i, entry in enumerate(entries):
        left, top = GAP + i % COLUMNS * (width + GAP), HEAD + i // COLUMNS * height
        sheet.paste(entry.picture(), (left, top))
        for row, (line, colour) in enumerate(text_lines(entry.answers[:QUESTIONS])[: SIDE // LINE]):
            pen.text((left + SIDE + GAP, top + LINE * row), line, colour, small)
    with partial_path(path) as partial:
        sheet.save(partial, format="PNG")


def text_lines(answers: Sequence[Answer]) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines and their colours: two of each question, one of its answer."""
    lines = []
    for answer in answers:
        verdict, colour = answer.verdict
        text = f"{answer.text} ({verdict}" + (f": {answer.people_text})" if answer.score == 0 else ")")
        for words, most, ink in ((answer.question, 2, INK), (text, 1, colour)):
            drawable = words.encode("latin-1", "replace").decode("latin-1")  # the built-in font has no other letters
            lines += [(line, ink) for line in textwrap.wrap(drawable, LETTERS)[:most]]
    return lines

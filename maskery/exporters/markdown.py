"""Markdown that nothing from outside can break out of."""

import re
from collections.abc import Iterable, Mapping


def code(text: object) -> str:
    """Anything as code in a line of Markdown, also within a table."""
    plain = re.sub(r"[\x00-\x1f\x7f`]", "?", str(text)).replace("|", "\\|")
    return f"`{plain}`"


def plain(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}." for line in lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]] | Mapping[str, str]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

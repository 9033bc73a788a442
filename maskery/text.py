"""Text for people: durations, counts, and names of files and classes that may hold any bytes."""

import re
import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, marks that turn the writing round, no characters at all


def to_text(name: bytes) -> str:
    """Decode a name; bytes that are no UTF-8 become Python's surrogate escapes."""
    return name.decode("utf-8", "surrogateescape")


def to_bytes(name: str) -> bytes:
    """Encode a name; the inverse of `to_text`."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # lone surrogates that stand for no byte: Windows file names and JSON can hold them
        return name.encode("utf-8", "surrogatepass")


def readable(name: str) -> str:
    """A name as valid text: bytes that are no UTF-8 become escapes."""
    return to_bytes(name).decode("utf-8", "backslashreplace")


def plain(name: str) -> str:
    """On one line; what could not be seen is written out: a new line as \\n, a byte that is no UTF-8 as \\xff."""
    text = readable(name)
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in HIDDEN else c for c in text)


def count(n: int, noun: str) -> str:
    """1, "image" -> "1 image"; 1200, "image" -> "1,200 images"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def duration(seconds: float) -> str:
    """3725 -> "1 h 02 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def needs_extra(feature: str, packages: str, extra: str) -> str:
    """The message for a feature whose packages are not installed; the command works in a clone of the repository."""
    return f"{feature} needs {packages}: pip install '.[{extra}]'"


def one_line(error: BaseException) -> str:
    """The error's text on one line of at most 200 characters, its type's name when it has no text.

    Without the addresses of objects: the same damage has the same text every time.
    """
    text = " ".join(re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "", str(error)).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

"""Names of files and classes as people can read them, whatever bytes they are made of."""

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, marks that turn the writing round, no characters at all


def plain(name: str) -> str:
    """On one line; what could not be seen is written out: a new line as \\n, a byte that is no UTF-8 as \\xff."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in HIDDEN else c for c in text)

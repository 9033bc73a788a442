"""Values of a label or split column -> numbers and names."""

from collections.abc import Sequence

import numpy as np

from .source import SPLITS


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sorted: by value when all are whole numbers (9 before 10), otherwise as text."""
    if all(_is_whole(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def index_labels(values: Sequence[str | int | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 [n] positions in classes, classes). None, "" and, among whole numbers, negative ones are no label: -1."""
    names = ["" if value is None else str(value).strip() for value in values]
    found = set(names) - {""}
    if all(_is_whole(name) for name in found):
        found = {name for name in found if int(name) >= 0}
    classes = sorted_classes(found)
    position = {name: i for i, name in enumerate(classes)}
    return np.fromiter((position.get(name, -1) for name in names), np.int64, len(names)), classes


def split_names(values: Sequence[str | None]) -> np.ndarray:
    """Objects [n]: "train", "val" or "test" for the usual names of these, other names as they are, "" for None."""
    known: dict[str | None, str] = {None: ""}
    for value in set(values) - {None}:
        stripped = str(value).strip()
        known[value] = SPLITS.get(stripped.lower(), stripped)
    out = np.empty(len(values), object)
    out[:] = [known[value] for value in values]
    return out


def _is_whole(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdigit()

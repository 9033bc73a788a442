"""Values of a label or split column -> numbers and names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .source import SPLITS, Source

MOST_MULTI_HOT = 8_000_000_000  # images times labels, a byte each
_INDICATORS = {"0", "1", "-1", "", "None"}  # of rows that say of every label whether the image has it


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sorted: by value when all are whole numbers (9 before 10), otherwise as text."""
    if all(_is_whole(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def index_labels(values: Sequence[str | int | None], given: tuple[str, ...] = ()) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 [n] positions in classes, classes). None, "" and, among whole numbers, negative ones are no label: -1.

    `given`: the names that whole numbers stand for, used where every number has one.
    """
    if given:
        numbers = np.array([-1 if value is None else int(value) for value in values], np.int64)
        if numbers.max(initial=-1) < len(given):
            return np.maximum(numbers, -1), given
    names = ["" if value is None else str(value).strip() for value in values]
    distinct = set(names) - {""}
    if all(_is_whole(name) for name in distinct):
        distinct = {name for name in distinct if int(name) >= 0}
    classes = sorted_classes(distinct)
    position = {name: i for i, name in enumerate(classes)}
    return np.fromiter((position.get(name, -1) for name in names), np.int64, len(names)), classes


def index_multi_hot(
    rows: Sequence[Sequence[str | int | None] | None], where: str, given: tuple[str, ...] = ()
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(uint8 [n, M] multi-hot, the M names) of lists of labels; (None, ()) where no list names any.

    None is an image that was never annotated, an empty list one that has none of the labels; what is no label in a list
    (`index_labels`) is left out. `where` begins the errors: ValueError for rows of 0 and 1, one number a label, and for
    more than MOST_MULTI_HOT.
    """
    counts = np.array([-1 if row is None else len(row) for row in rows], np.int64)
    values = [value for row in rows if row is not None for value in row]
    lengths = set(counts.tolist()) - {-1}
    if not given and len(lengths) == 1 and min(lengths) > 2 and {str(v).strip() for v in values} <= _INDICATORS:
        raise ValueError(f"{where} holds rows of {min(lengths)} zeros and ones: list the labels an image has instead")
    positions, classes = index_labels(values, given)
    if len(rows) * len(classes) > MOST_MULTI_HOT:
        raise ValueError(
            f"{where} has {len(classes):,} different labels: with {len(rows):,} images "
            f"{MOST_MULTI_HOT // len(rows):,} at most; --images.no-labels leaves them aside"
        )
    return (multi_hot_of(counts, positions, len(classes)), classes) if classes else (None, ())


def set_labels(
    source: Source, column: str, cells: Sequence[Any], given: tuple[str, ...] = (), *, multi_label: bool
) -> str:
    """Set the labels and classes of `source` from the cells of a column; return a note about them."""
    if multi_label:
        source.multi_hot, source.classes = index_multi_hot(cells, f"{source.where}: column {column!r}", given)
    else:
        source.labels, source.classes = index_labels(cells, given)
    return f"{len(source.classes)} {'labels, several an image,' if multi_label else 'classes'} from column {column}"


def multi_hot_of(counts: np.ndarray, positions: np.ndarray, m: int) -> np.ndarray:
    """uint8 [n, m] multi-hot labels of images with `counts` [n] labels each (-1: not annotated).

    `positions` [sum of counts] in the classes; those below 0 are no label.
    """
    multi_hot = np.zeros((len(counts), m), np.uint8)
    image = np.repeat(np.arange(len(counts)), np.maximum(counts, 0))
    multi_hot[image[positions >= 0], positions[positions >= 0]] = 1
    multi_hot[counts < 0] = 255
    return multi_hot


def label_lists(multi_hot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int32 counts [n], int32 positions [sum]): the inverse of `multi_hot_of`."""
    counts = np.where(annotated(multi_hot), (multi_hot == 1).sum(1), -1)
    return counts.astype(np.int32), np.nonzero(multi_hot == 1)[1].astype(np.int32)


def annotated(multi_hot: np.ndarray) -> np.ndarray:
    """bool [n]: images that were annotated, with any label or none."""
    return multi_hot[:, 0] != 255


def split_names(values: Sequence[str | None]) -> np.ndarray:
    """Objects [n]: "train", "val" or "test" for the usual names of these, other names as they are, "" for None."""
    names: dict[str | None, str] = {None: ""}
    for value in set(values) - {None}:
        stripped = str(value).strip()
        names[value] = SPLITS.get(stripped.lower(), stripped)
    return np.array([names[value] for value in values], object)


def _is_whole(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdigit()

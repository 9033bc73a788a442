"""The interface of every reader of images: names, encoded bytes, labels and splits."""

import abc
import difflib
import errno
import os
from collections.abc import Iterable, Sequence

import numpy as np

from ...terminal import Tick
from .names import hashes

LISTS = (".txt", ".lst", ".csv", ".tsv")
TABLES = (".parquet", ".arrow", ".feather")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}  # spelling in the data -> split


class Source(abc.ABC):
    """n encoded images, each with a name, perhaps classes and a split. Can be pickled and used after a fork."""

    where: str  # absolute path or URL
    names: Sequence[str]  # [n], unique, the same in every run and on every machine
    labels: np.ndarray | None = None  # int64 [n], positions in `classes`, -1 = no label; None for unlabelled data
    classes: tuple[str, ...] = ()  # empty without `labels` and `multi_hot`
    splits: np.ndarray | None = None  # str objects [n]: "train", "val", "test" or a name of the data's own, "" = none
    notes: tuple[str, ...] = ()  # sentences about what was read and what was left out
    # Labels of multi-label data: uint8 [n, M], 1 where the image has the label `classes[m]`, a row of 255 where it was
    # never annotated. `labels` is None then.
    multi_hot: np.ndarray | None = None
    masks: np.ndarray | None = None  # bool [n], images that have a mask; None unless masks were asked for
    mask_classes: tuple[str, ...] = ()  # names of the values of masks, where a file lists them
    zero_is_void: bool = False  # the layout is known to count classes of masks from 1
    full_sizes: np.ndarray | None = None  # int32 [n, 2], (height, width) before packing, (0, 0) = unreadable
    blocks: np.ndarray | None = None  # int32 [n], ascending: images best read together; None: any order will do

    def __len__(self) -> int:
        return len(self.names)

    @abc.abstractmethod
    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`; b"" for an empty cell. Raises OSError when its file cannot be read."""

    def read_mask(self, i: int) -> bytes:
        """Return the encoded mask of image `i`; b"" without one. Raises OSError when its file cannot be read."""
        return b""

    def expect(self, indices: np.ndarray) -> None:
        """Announce the images that are read next, so that a remote source can fetch them together."""

    def damaged(self, progress: Tick | None = None) -> list[str]:
        """Compare files with their checksums, where there are any; return one sentence per damaged file."""
        return []


def read_file(folder: str, path: bytes) -> bytes:
    """Read a file named relative to `folder`, or absolutely. Raises OSError."""
    try:
        with open(os.path.join(os.fsencode(folder), path), "rb") as file:
            return file.read()
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, f"not a file name: {error}") from error


def split_indices(source: Source, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out): positions in `source`, int64, sorted.

    With splits: train is "train" (where no split has that name, all that is neither "val" nor "test"), held out is
    "val", else "test". Without such a split: training images whose name's hash falls below `holdout`, a fraction in
    [0, 1), so that an image keeps its split when others are added or removed; none of fewer than 20 images. Raises
    ValueError when nothing is left to train on.
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}: it must be at least 0 and below 1")
    train = np.ones(len(source), bool)
    held = np.zeros(len(source), bool)
    if source.splits is not None:
        named = {name: source.splits == name for name in ("train", "val", "test")}
        train = named["train"] if named["train"].any() else ~(named["val"] | named["test"])
        held = named["val"] if named["val"].any() else named["test"]
    if not held.any() and holdout > 0 and train.sum() >= 20:
        held = train & (hashes(source.names) / 2.0**64 < holdout)
        train &= ~held
    if not train.any():
        splits = "" if source.splits is None else f" (its splits: {', '.join(sorted(set(source.splits.tolist())))})"
        raise ValueError(f"{source.where}: all {len(source)} images are held out, none is left to train on{splits}")
    return np.flatnonzero(train).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def find_column(where: str, wanted: str | None, usual: Iterable[str], columns: Sequence[str]) -> str | None:
    """The column `wanted`; without it the first of the `usual` names that exists, in upper or lower case.

    Raises ValueError when the wanted one is missing, naming those there are, nearest first.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        near = difflib.get_close_matches(wanted, columns, len(columns), 0)
        raise ValueError(f"{where} has no column {wanted!r}: it has {', '.join(map(repr, near)) or 'none'}")
    lower = {c.lower(): c for c in reversed(columns)}
    return next((lower[u] for u in usual if u in lower), None)

"""Where encoded images come from: a folder, a list of paths, or a table."""

import abc
import difflib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from .names import absolute, hashes

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
}  # what a split may be called, and what we call it


class Source(abc.ABC):
    """n encoded images, each with a name, perhaps classes and a split. Can be pickled and used after a fork."""

    where: str  # what the user gave, as an absolute path
    names: Sequence[str]  # [n], unique, the same in every run and on every machine
    labels: np.ndarray | None  # int64 [n], positions in `classes`, -1 = no label; None when there are none
    classes: tuple[str, ...]  # () without labels and tags
    splits: (
        np.ndarray | None
    )  # str objects [n], "train", "val", "test" or as found, "" = none; None when there are none
    notes: tuple[str, ...]  # sentences about what was found
    # Where an image may have several labels: uint8 [n, M], 1 where it has the label `classes[m]`, a row of 255 where
    # nobody said. `labels` is None then. None when images have at most one label.
    multi_hot: np.ndarray | None = None
    # Where images have masks, and somebody asked for them: bool [n], those that have one. None otherwise.
    masks: np.ndarray | None = None
    mask_classes: tuple[str, ...] = ()  # names of what masks tell apart, () where nobody wrote them down
    zero_is_void: bool = False  # in masks, by what is known of the data set: classes count from 1
    full_sizes: np.ndarray | None = None  # int32 [n, 2], (height, width) before packing, (0, 0) = unreadable
    blocks: np.ndarray | None = None  # int32 [n], ascending: images best read together; None: any order will do

    def __len__(self) -> int:
        return len(self.names)

    @abc.abstractmethod
    def read(self, i: int) -> bytes:
        """The encoded bytes of image `i`; b"" for an empty cell. Raises OSError when its file cannot be read."""

    def read_mask(self, i: int) -> bytes:
        """The encoded mask of image `i`; b"" when it has none. Raises OSError when its file cannot be read."""
        return b""

    def expect(self, indices: np.ndarray) -> None:
        """These images are read next: what has to come from far away may be fetched together."""

    def damaged(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Sentences about files that are not what was written, where there are checksums to tell."""
        return []


def read_file(folder: str, path: bytes) -> bytes:
    """The bytes of a file named relative to `folder`, or absolutely. Raises OSError."""
    try:
        with open(os.path.join(os.fsencode(folder), path), "rb") as file:
            return file.read()
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, f"not a file name: {error}") from error


def open_source(
    where: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    mask_column: str | None = None,
    labels: bool = True,
    masks: bool = False,
    objects: bool = False,
    questions: bool = False,
    train_json: str | None = None,
    val_json: str | None = None,
    test_json: str | None = None,
    cache: bool = True,
    remote_cache: float = 50.0,
    progress: Callable[[int], None] | None = None,
) -> Source:
    """The images at `where`: a folder, a list (.txt, .lst, .csv, .tsv), a table (.parquet, .arrow, .feather), a
    folder of tables, or a pack (`maskery pack`), which may lie at a URL (s3://, gs://, https://, ...).

    The columns are those of a .csv, .tsv or table; None: by their usual names. `labels` False leaves classes aside.
    `masks`: every image has a mask beside it (`pairs.py`), or in a column of the table; classes are left aside then.
    `objects`: those of COCO's json (`coco.py`), `questions`: of VQAv2's (`vqa.py`), whose files may be named relative
    to `where`.
    `cache`: a folder that has not changed since the last time is not scanned again. `remote_cache`: GB of local disk
    for a pack at a URL. `progress` is called now and then with the number of files found so far. Raises ValueError when
    there is nothing to read, naming what was looked for.
    """
    path = absolute(where)
    columns = {"image_column": image_column, "label_column": label_column, "split_column": split_column}
    given = [c for c in (*columns.values(), mask_column) if c is not None]
    labels = labels and not masks
    if objects:
        from .coco import CocoSource, no_json

        if not os.path.isdir(path):
            raise ValueError(no_json(path))
        return CocoSource(path, train_json, val_json)
    if questions:
        from .vqa_v2 import VqaSource, no_questions

        if not os.path.isdir(path):
            raise ValueError(no_questions(path))
        return VqaSource(path, train_json, val_json, test_json)
    # Imported here because those files import this one, and because pyarrow takes a third of a second to load.
    if "://" in path or os.path.exists(os.path.join(path, "pack.json")):
        from ..pack.reader import PackedSource

        if given:
            raise ValueError(f"{path} is a packed data set: it has no column {given[0]!r}")
        if masks:
            raise ValueError(f"{path} is a packed data set, which has no masks: the data it was made of has")
        return PackedSource(path, labels=labels, remote_cache=remote_cache if "://" in path else None)
    if os.path.exists(os.path.join(path, "packing.json")):
        raise ValueError(f"{path}: a pack that is not finished; the `maskery pack` that began it goes on with it")
    if os.path.isdir(path):
        from .folder import FolderSource, no_images
        from .scan import scan

        found = scan(path, cache=cache, progress=progress)
        if len(found.names):
            if given:
                raise ValueError(f"{path} is a folder of images: it has no column {given[0]!r}")
            if masks:
                from .image_mask_pairs import PairSource

                return PairSource(path, found)
            return FolderSource(path, found, labels=labels)
        if not found.tables:
            raise ValueError(no_images(path, found))
        from .table import TableSource

        files = tuple(os.path.join(path, os.fsdecode(table)) for table in found.tables)
        return TableSource(path, files, **columns, mask_column=mask_column, labels=labels, masks=masks)
    if not os.path.exists(path):
        raise ValueError(f"{path}: no such file or folder")
    kind = os.path.splitext(path)[1].lower()
    if kind in LISTS:
        from .file_list import ListSource

        if masks:
            raise ValueError(f"{path} is a list, which has no masks: folders of images and masks, or a table, have")
        return ListSource(path, **columns, labels=labels)
    if kind in TABLES:
        from .table import TableSource

        return TableSource(path, (path,), **columns, mask_column=mask_column, labels=labels, masks=masks)
    raise ValueError(f"{path}: not a folder, and no file of a kind that is read ({', '.join(LISTS + TABLES)})")


def split_indices(source: Source, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, held out): positions in `source`, int64, sorted.

    With splits: train is "train" (where no split has that name, all that is neither "val" nor "test"), held out is
    "val", else "test". Where nothing is named for holding out, or there are no splits: of the training images, those
    whose name's hash falls below `holdout`, a share in [0, 1); so an image stays on its side when others come or go.
    Of fewer than 20 images none is held out that way. Raises ValueError when nothing is left to train on.
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
        found = "" if source.splits is None else f" (its splits: {', '.join(sorted(set(source.splits.tolist())))})"
        raise ValueError(f"{source.where}: all {len(source)} images are held out, none is left to train on{found}")
    return np.flatnonzero(train).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def column(where: str, wanted: str | None, usual: Iterable[str], columns: Sequence[str]) -> str | None:
    """The column that is `wanted`, or with None the first of the `usual` names that is there, in any case of letters.

    Raises ValueError when the wanted one is missing, naming those there are, nearest first.
    """
    if wanted is not None:
        if wanted in columns:
            return wanted
        near = difflib.get_close_matches(wanted, columns, len(columns), 0)
        raise ValueError(f"{where} has no column {wanted!r}: it has {', '.join(map(repr, near)) or 'none'}")
    lower = {c.lower(): c for c in reversed(columns)}
    return next((lower[u] for u in usual if u in lower), None)

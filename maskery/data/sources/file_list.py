"""A list of image files: one path a line (.txt, .lst), or a table of text with a header (.csv, .tsv).

A "|" in the label column means several labels an image: `cat|dog`, `cat`, `|` = none of the labels, an empty cell = not
annotated.
"""

import csv
import os
from typing import Any

from ...config import ImagesConfig
from ...text import to_bytes
from .labels import set_labels, split_names
from .names import StringArray, unique
from .source import Source, find_column, read_file

PATHS = ("path", "image", "file", "filename", "file_name", "image_path")  # usual names of the columns
LABELS = ("label", "class", "target", "category")
SPLIT = ("split", "subset")


class ListSource(Source):
    """Files named in a list, relative to the list's folder or absolute. They are opened when they are read."""

    def __init__(self, where: str, images: ImagesConfig):
        if images.masks:
            raise ValueError(f"{where} is a list, which has no masks: folders of images and masks, or a table, have")
        self.where = where
        notes: list[str] = []
        if where.lower().endswith((".csv", ".tsv")):
            entries = self._from_table(_columns(where), images, notes)
        else:
            given = images.image_column or images.label_column or images.split_column
            if given:
                raise ValueError(f"{where} is a list of paths: it has no column {given!r}")
            with open(where, encoding="utf-8-sig", errors="surrogateescape") as file:
                lines = [line.strip() for line in file]
            entries = [line for line in lines if line and not line.startswith("#")]
        if not entries:
            raise ValueError(f"no images in {where}: it names no file")
        paths = [to_bytes(entry) for entry in entries]
        self._paths = StringArray.of(paths)
        names = unique(paths)
        self.names = self._paths if names is paths else StringArray.of(names)
        if names is not paths:
            notes.append(f"{len(paths) - len(set(paths))} files are named more than once")
        self.notes = tuple(notes)

    def _from_table(self, columns: dict[str, list[str]], images: ImagesConfig, notes: list[str]) -> list[str]:
        """Set labels and splits; return the paths of the images."""
        where = self.where
        path = find_column(where, images.image_column, PATHS, list(columns))
        if path is None:
            raise ValueError(
                f"{where} has no column named {', '.join(PATHS)}: its columns are {', '.join(map(repr, columns))}; "
                "say which holds the paths of the images"
            )
        if "" in columns[path]:
            raise ValueError(f"{where}: row {columns[path].index('') + 1} below the header has no {path}")
        label = find_column(where, images.label_column, LABELS, list(columns)) if images.labels else None
        if label is not None:
            cells: list[Any] = columns[label]
            multi_label = any("|" in cell for cell in cells)
            if multi_label:
                cells = [cell.split("|") if cell else None for cell in cells]
            notes.append(set_labels(self, label, cells, multi_label=multi_label))
        split = find_column(where, images.split_column, SPLIT, list(columns))
        if split is not None:
            self.splits = split_names(columns[split])
            notes.append(f"splits from column {split}")
        return columns[path]

    def read(self, i: int) -> bytes:
        return read_file(os.path.dirname(self.where), self._paths.raw(i))


def _columns(where: str) -> dict[str, list[str]]:
    """Column name -> its cells, cells missing at the end of a row as ""."""
    delimiter = "\t" if where.lower().endswith(".tsv") else ","
    with open(where, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
        except csv.Error as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
    if not rows:
        raise ValueError(f"{where} is empty: a header and rows are wanted")
    header = [name.strip() for name in rows[0]]
    return {name: [row[k].strip() if k < len(row) else "" for row in rows[1:]] for k, name in enumerate(header)}

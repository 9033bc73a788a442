"""A list of image files: one path a line (.txt, .lst), or a table of text with a header (.csv, .tsv).

Where a cell of the label column holds a "|", images have several labels: `cat|dog`, `cat`, `|` = none of the labels, an
empty cell = nobody said.
"""

import csv
import os

from .labels import index_labels, index_multi_hot, split_names
from .names import Names, raw, unique
from .source import Source, column, read_file

PATHS = ("path", "image", "file", "filename", "file_name", "image_path")  # usual names of the columns
LABELS = ("label", "class", "target", "category")
SPLIT = ("split", "subset")


class ListSource(Source):
    """Files named in a list, relative to the list's folder or absolute. They are looked for when they are read."""

    def __init__(
        self,
        where: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        labels: bool = True,
    ):
        self.where = where
        self.labels, self.classes, self.splits = None, (), None
        notes = []
        if where.lower().endswith((".csv", ".tsv")):
            columns = _columns(where)
            paths = column(where, image_column, PATHS, list(columns))
            if paths is None:
                raise ValueError(
                    f"{where} has no column named {', '.join(PATHS)}: its columns are {', '.join(map(repr, columns))}; "
                    "say which holds the paths of the images"
                )
            entries = columns[paths]
            if "" in entries:
                raise ValueError(f"{where}: row {entries.index('') + 1} below the header has no {paths}")
            label = column(where, label_column, LABELS, list(columns)) if labels else None
            if label is not None:
                cells, what = columns[label], "classes"
                if any("|" in cell for cell in cells):
                    rows = [cell.split("|") if cell else None for cell in cells]
                    self.multi_hot, self.classes = index_multi_hot(rows, f"{where}: column {label!r}")
                    what = "labels, several an image,"
                else:
                    self.labels, self.classes = index_labels(cells)
                notes.append(f"{len(self.classes)} {what} from column {label}")
            split = column(where, split_column, SPLIT, list(columns))
            if split is not None:
                self.splits = split_names(columns[split])
                notes.append(f"splits from column {split}")
        else:
            given = image_column or label_column or split_column
            if given:
                raise ValueError(f"{where} is a list of paths: it has no column {given!r}")
            with open(where, encoding="utf-8-sig", errors="surrogateescape") as file:
                lines = [line.strip() for line in file]
            entries = [line for line in lines if line and not line.startswith("#")]
        if not entries:
            raise ValueError(f"no images in {where}: it names no file")
        parts = [raw(entry) for entry in entries]
        self._paths = Names.of(parts)
        names = unique(parts)
        self.names = self._paths if names is parts else Names.of(names)
        if names is not parts:
            notes.append(f"{len(parts) - len(set(parts))} files are named more than once")
        self.notes = tuple(notes)

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

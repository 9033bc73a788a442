"""Tables of images: Parquet, and Arrow's file and stream formats (Feather), one file or several alike."""

import bisect
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...config import ImagesConfig
from ...text import to_bytes
from .arrow import holds_images, is_list, is_text, read_columns, read_schema, text_columns
from .file_list import LABELS, PATHS, SPLIT
from .image_mask_pairs import read_mask_classes
from .labels import set_labels, split_names
from .names import StringArray, unique
from .source import SPLITS, Source, find_column, read_file

_IMAGES = ("image", "img", "bytes", "image_bytes", "jpg", "png", *PATHS)
_NAMES = ("name", *PATHS)
_MASKS = ("mask", "annotation", "segmentation", "seg", "label_map", "label")


class TableSource(Source):
    """Images in a column of a table: as encoded bytes, as Hugging Face's struct {bytes, path}, or as paths.

    Encoded bytes stay in Arrow's memory: mapped from the disk for uncompressed Arrow files, read into RAM otherwise.
    Paths are relative to the table's folder. A label column of lists gives several labels an image. Masks are a second
    column of images. A pickled TableSource opens its files again where it is unpickled.
    """

    def __init__(self, where: str, files: tuple[str, ...], images: ImagesConfig):
        self.where = where
        self._arguments = (where, files, images)
        schema = read_schema(files[0])
        columns = _columns(where, images, schema)
        tables = [read_columns(file, schema, list(dict.fromkeys(columns.values()))) for file in files]
        self._images = _Cells(files, [table[columns["image"]] for table in tables])
        if not self._images.chunks:
            raise ValueError(f"no images in {where}: the table has no rows")

        def values(role: str) -> list:
            return [value for table in tables for value in table[columns[role]].to_pylist()]

        self.names = _names(self._images.chunks, values("name") if "name" in columns else None)
        notes = [f"{len(files)} files of a table"] if len(files) > 1 else []
        if "label" in columns:
            multi_label, names = _label_kind(where, schema, columns["label"])
            cells = values("label")
            cells = cells if multi_label else [int(cell) if isinstance(cell, bool) else cell for cell in cells]
            notes.append(set_labels(self, columns["label"], cells, names, multi_label=multi_label))
        if "split" in columns:
            self.splits = split_names(values("split"))
            notes.append(f"splits from column {columns['split']}")
        elif len(files) > 1 or os.path.isdir(where):
            splits = [_split_of(os.path.relpath(file, where)) for file in files]
            if None not in splits:
                self.splits = np.repeat(np.array(splits, object), list(map(len, tables)))
                notes.append("splits from the names of the files")
        self._masks = None
        if "mask" in columns:
            self._masks = _Cells(files, [table[columns["mask"]] for table in tables])
            self.masks = filled = self._masks.filled()
            notes.append(f"{int(filled.sum()):,} images with masks, from column {columns['mask']}")
            if not filled.all():
                notes.append(f"{int((~filled).sum()):,} images have no mask and are left out")
            self.mask_classes = read_mask_classes(where if os.path.isdir(where) else os.path.dirname(where))
        self.notes = tuple(notes)

    def read(self, i: int) -> bytes:
        return self._images.read(i)

    def read_mask(self, i: int) -> bytes:
        return self._masks.read(i) if self._masks else b""

    def __reduce__(self) -> tuple:
        return TableSource, self._arguments


class _Cells:
    """One column of encoded images, chunk by chunk."""

    def __init__(self, files: Sequence[str], columns: Sequence[pa.ChunkedArray]):
        self.chunks: list[pa.Array] = []
        self._folder: list[str] = []  # of each chunk: where its paths begin
        for file, cells in zip(files, columns, strict=True):
            chunks = [chunk for chunk in cells.chunks if len(chunk)]
            self.chunks += chunks
            self._folder += [os.path.dirname(file)] * len(chunks)
        self._starts = [0, *itertools.accumulate(map(len, self.chunks))]

    def filled(self) -> np.ndarray:
        """bool [n]: cells that are not empty."""
        each = [chunk.flatten() if pa.types.is_struct(chunk.type) else [chunk] for chunk in self.chunks]
        return np.concatenate([np.any([part.is_valid().to_numpy(False) for part in parts], axis=0) for parts in each])

    def read(self, i: int) -> bytes:
        chunk = bisect.bisect_right(self._starts, i) - 1
        cell = self.chunks[chunk][i - self._starts[chunk]].as_py()
        path = None
        if isinstance(cell, dict):
            cell, path = cell.get("bytes"), cell.get("path")
        if isinstance(cell, str):
            cell, path = None, cell
        if cell is not None or path is None:
            return cell or b""
        return read_file(self._folder[chunk], to_bytes(path))


def _columns(where: str, images: ImagesConfig, schema: pa.Schema) -> dict[str, str]:
    """Role (image, name, label, split, mask) -> column, without the roles that no column has."""
    image, labels = _image_column(where, images.image_column, schema), images.labels and not images.masks
    columns = {
        "image": image,
        "label": find_column(where, images.label_column, LABELS, schema.names) if labels else None,
        "split": find_column(where, images.split_column, SPLIT, schema.names),
        "mask": _mask_column(where, images.mask_column, schema, image) if images.masks else None,
        "name": find_column(where, None, [n for n in _NAMES if n != image], text_columns(schema)),
    }
    return {role: column for role, column in columns.items() if column is not None}


def _image_column(where: str, wanted: str | None, schema: pa.Schema) -> str:
    """The column of images: by its name, else the only one of bytes or of {bytes, path}. ValueError without one."""
    image = find_column(where, wanted, _IMAGES, schema.names)
    if image is None:
        binary = [f.name for f in schema if not is_text(f.type) and holds_images(f.type)]
        if len(binary) != 1:
            columns = ", ".join(map(repr, schema.names))
            raise ValueError(f"{where} has no column of images: its columns are {columns}; say which it is")
        image = binary[0]
    if not holds_images(schema.field(image).type):
        raise ValueError(
            f"{where}: column {image!r} holds {schema.field(image).type}: bytes, a struct of bytes and path, or "
            "strings (paths) are read"
        )
    return image


def _mask_column(where: str, wanted: str | None, schema: pa.Schema, image: str) -> str:
    """The column of masks. ValueError when there is none."""
    mask = find_column(where, wanted, _MASKS, [f.name for f in schema if f.name != image and holds_images(f.type)])
    if mask is None:
        raise ValueError(
            f"{where} has no column of masks named {', '.join(_MASKS)}: its columns are "
            f"{', '.join(map(repr, schema.names))}; --images.mask-column names it"
        )
    return mask


def _names(cells: Sequence[pa.Array], given: list[str | None] | None) -> StringArray:
    """The given names, else the paths beside or in place of the bytes, else "row-00000012"; made unique."""
    if given is None:
        kind = cells[0].type
        if is_text(kind):
            given = [path for chunk in cells for path in chunk.to_pylist()]
        elif pa.types.is_struct(kind) and (at := kind.get_field_index("path")) >= 0:
            # flatten, unlike field, gives None where the whole struct is None
            given = [path for chunk in cells for path in chunk.flatten()[at].to_pylist()]
    names = [to_bytes(name) for name in given or () if name is not None]
    n = sum(map(len, cells))
    return StringArray.of(unique(names) if len(names) == n else [b"row-%08d" % i for i in range(n)])


def _label_kind(where: str, schema: pa.Schema, label: str) -> tuple[bool, tuple[str, ...]]:
    """(whether its cells are lists of labels, the names that its numbers stand for). ValueError: they are no labels."""
    column = schema.field(label).type
    multi_label = is_list(column)
    kind = column.value_type if multi_label else column
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    integers = pa.types.is_integer(kind)
    if not (is_text(kind) or integers or (pa.types.is_null(kind) if multi_label else pa.types.is_boolean(kind))):
        raise ValueError(
            f"{where}: column {label!r} holds {column}: labels are integers or strings, or for several an image lists "
            "of these"
        )
    return multi_label, _class_names(schema, label) if integers else ()


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names of a Hugging Face `ClassLabel`, or of one in a `Sequence` or `List`; () where there are none."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names: Any = feature["names"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _split_of(file: str) -> str | None:
    """The split that a shard's path names, as in train/0.parquet or data/test-00000-of-00002.parquet."""
    *folders, name = file.split(os.sep)
    first_word = name.replace(".", "-").replace("_", "-").partition("-")[0]
    return next((SPLITS[part.lower()] for part in (first_word, *reversed(folders)) if part.lower() in SPLITS), None)

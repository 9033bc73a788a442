"""Shards of a packed data set: Arrow files that other tools read, with images at known bytes.

A shard is an Arrow IPC file (Feather V2) without compression. Its columns: `image`, a struct {bytes, path} as Hugging
Face has it (null where the image could not be read), `name`, `label` (null = none; lists where images may have
several), `split`, `height`, `width`, `full_height` and `full_width` (before packing), `encoding`, `crc32` of the bytes,
`unreadable` (the reason, null where it was read).
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ...outputs import partial_path

BATCH_BYTES, BATCH_ROWS = 4 << 20, 256  # where a record batch ends: what other tools read at a time


@dataclass(frozen=True)
class Row:
    name: bytes
    label: int | list[int]  # -1: none
    split: str
    data: bytes | None  # None: unreadable
    size: tuple[int, int]  # (height, width)
    full: tuple[int, int]
    encoding: str
    crc32: int
    reason: str | None


@dataclass(frozen=True)
class Shard:
    """A finished shard, as the pack's manifest lists it."""

    file: str
    first: int  # position of its first image
    rows: int
    bytes: int  # of the file
    blake2b: str  # of the file, 32 bytes, as `b2sum -l 256` prints it


def shard_schema(
    classes: Sequence[str], *, labelled: bool, split: bool, text: bool, decodable: bool, multilabel: bool = False
) -> pa.Schema:
    """Return the columns of a shard.

    `text`: all names are UTF-8, otherwise their column holds bytes. `decodable`: other tools know the encoding.
    `multilabel`: labels are lists.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, pa.DataType]] = [("image", image), ("name", pa.string() if text else pa.binary())]
    if labelled or multilabel:
        fields.append(("label", pa.list_(pa.int64()) if multilabel else pa.int64()))
    if split:
        fields.append(("split", pa.string()))
    numbers = ("height", "width", "full_height", "full_width")
    fields += [(n, pa.int32()) for n in numbers] + [("encoding", pa.string()), ("crc32", pa.uint32())]
    fields.append(("unreadable", pa.string()))
    features: dict[str, Any] = {"image": {"_type": "Image"}} if decodable else {}
    if labelled or multilabel:
        one = {"names": [printable(c) for c in classes], "_type": "ClassLabel"}
        features["label"] = {"feature": one, "length": -1, "_type": "Sequence"} if multilabel else one
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


class ShardWriter:
    """The rows of one shard, written in batches."""

    def __init__(self, file: pa.NativeFile, arrow: pa.ipc.RecordBatchFileWriter, schema: pa.Schema):
        self._file, self._arrow, self._schema = file, arrow, schema
        self.rows = 0
        self.shard: Shard | None = None  # when it is finished
        self._waiting: list[Row] = []
        self._waiting_bytes = 0

    @property
    def bytes(self) -> int:
        return self._file.tell() + self._waiting_bytes

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self._waiting_bytes += len(row.data or b"")
        self.rows += 1
        if self._waiting_bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_ROWS:
            self.write_batch()

    def write_batch(self) -> None:
        if self._waiting:
            self._arrow.write_batch(_batch(self._waiting, self._schema))
        self._waiting, self._waiting_bytes = [], 0


@contextmanager
def shard_writer(folder: Path, number: int, first: int, schema: pa.Schema) -> Iterator[ShardWriter]:
    """Write a shard; it takes its name when the block ends and all of it is on the disk."""
    path = folder / f"shard-{number:05d}.arrow"
    with partial_path(path) as partial:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as arrow:
            writer = ShardWriter(file, arrow, schema)
            yield writer
            writer.write_batch()
        sync(partial)
        writer.shard = Shard(path.name, first, writer.rows, partial.stat().st_size, digest_of(partial))
    sync(folder)


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    missing = pa.array([row.data is None for row in rows])
    cells = pa.array([row.data for row in rows], pa.binary())
    paths = pa.array([printable(row.name) for row in rows], pa.string())
    named = schema.field("name").type == pa.string()
    columns: dict[str, Any] = {
        "image": pa.StructArray.from_arrays(
            [cells, paths], fields=list(schema.field("image").type.fields), mask=missing
        ),
        "name": [row.name.decode() if named else row.name for row in rows],
        "label": [None if row.label == -1 else row.label for row in rows],
        "split": [printable(row.split) for row in rows],
        "height": [row.size[0] for row in rows],
        "width": [row.size[1] for row in rows],
        "full_height": [row.full[0] for row in rows],
        "full_width": [row.full[1] for row in rows],
        "encoding": [row.encoding for row in rows],
        "crc32": [row.crc32 for row in rows],
        "unreadable": [row.reason for row in rows],
    }
    arrays = [c if isinstance(c := columns[f.name], pa.Array) else pa.array(c, f.type) for f in schema]
    return pa.record_batch(arrays, schema=schema)


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one shard lie in its file, and facts about them; [rows] each."""

    start: np.ndarray  # int64, byte; ascending
    length: np.ndarray  # uint32, 0 = unreadable
    crc32: np.ndarray  # uint32
    full: np.ndarray  # int32 [rows, 2], height and width before packing
    skipped: list[tuple[str, str]]  # (name, reason)
    encodings: Counter[str]  # how many images are encoded how


def read_shard_index(file: Path) -> ShardIndex:
    """Read a shard without its images. ValueError naming the file when it cannot be read."""
    starts, lengths, crcs, fulls = [], [], [], []
    skipped: list[tuple[str, str]] = []
    encodings: Counter[str] = Counter()
    try:
        with pa.memory_map(str(file)) as mapped:
            base = mapped.read_buffer().address
            mapped.seek(0)
            opened = pa.ipc.open_file(mapped)
            for k in range(opened.num_record_batches):
                batch = opened.get_batch(k)
                cells = batch.column("image").field("bytes")  # offsets of the child: nulls have length 0
                _, offsets, data = cells.buffers()
                ends = np.frombuffer(offsets, np.int32)[: len(batch) + 1].astype(np.int64)
                starts.append((data.address - base if data is not None else 0) + ends[:-1])
                lengths.append(np.diff(ends).astype(np.uint32))
                crcs.append(batch.column("crc32").to_numpy())
                fulls.append(np.stack([batch.column(f"full_{n}").to_numpy() for n in ("height", "width")], axis=1))
                encodings.update(e for e in batch.column("encoding").to_pylist() if e)
                for row, why in enumerate(batch.column("unreadable").to_pylist()):
                    if why is not None:
                        name = batch.column("name")[row].as_py()
                        skipped.append((name if isinstance(name, str) else printable(name), why))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: damaged: {str(error).splitlines()[0]}") from error
    start, length, crc32, full = map(np.concatenate, (starts, lengths, crcs, fulls))
    return ShardIndex(np.maximum.accumulate(start), length, crc32, full, skipped, encodings)


def digest_of(file: Path) -> str:
    """BLAKE2b of a file, 32 bytes. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


class OpenFile:
    """An open file that threads and forked processes may share; closed when no reference is left."""

    def __init__(self, path: str | Path):
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._handle, length, start)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def sync(path: Path) -> None:
    """Put a file's contents, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def printable(name: bytes | str) -> str:
    """Make a name valid UTF-8, which other tools need."""
    encoded = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return encoded.decode("utf-8", "backslashreplace")

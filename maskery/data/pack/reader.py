"""A packed data set as a source: the same names in the same order as what it was packed from.

OUT/pack.json     what it is: options, shards with their digests; written last, so that a pack is whole or unfinished
    index.npz     names, labels, splits and the bytes of every image: no shard is opened to open the pack
    shard-*.arrow images (`shards.py`)
    skipped.jsonl what could not be read
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..sources.labels import label_lists, multi_hot_of
from ..sources.names import StringArray, all_bytes
from ..sources.source import Source
from .shards import OpenFile, Shard, ShardIndex, digest_of

MANIFEST, INDEX, UNFINISHED = "pack.json", "index.npz", "packing.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    version: int
    source: dict[str, Any]  # where it came from, images, digest of names, labels and splits
    encoding: dict[str, Any]
    shard_mb: int
    classes: list[str]
    splits: list[str]  # names that the codes of the index stand for; [] without splits
    labelled: bool  # with at most one label an image; the index knows of several
    unreadable: int
    shards: list[Shard]

    def dump(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def load(cls, where: str, text: bytes) -> "Manifest":
        """Raises ValueError naming `where` when this is no manifest, or one of a later version."""
        try:
            tree = json.loads(text)
            if tree["version"] == VERSION:
                return cls(**{**tree, "shards": [Shard(**shard) for shard in tree["shards"]]})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: damaged: it is not the manifest of a pack ({error})") from None
        raise ValueError(f"{where}: a pack of version {tree['version']}; this program reads version {VERSION}")


def index_bytes(
    names: Sequence[str],
    labels: np.ndarray | None,
    splits: np.ndarray,
    parts: Sequence[ShardIndex],
    multi_hot: np.ndarray | None = None,
) -> bytes:
    """The bytes of index.npz. `splits`: codes, [n], [0] without splits."""
    lists = {}
    if multi_hot is not None:
        lists["tag_counts"], lists["tag_positions"] = label_lists(multi_hot)
    names = names if isinstance(names, StringArray) else StringArray.of(list(all_bytes(names)))
    out = io.BytesIO()
    np.savez(
        out,
        **names.arrays(),
        labels=np.zeros(0, np.int32) if labels is None else labels.astype(np.int32),
        splits=splits,
        start=np.concatenate([part.start for part in parts]),
        length=np.concatenate([part.length for part in parts]),
        crc32=np.concatenate([part.crc32 for part in parts]),
        full=np.concatenate([part.full for part in parts]),
        **lists,
    )
    return out.getvalue()


class PackedSource(Source):
    """A pack in a folder or at a URL. A pickled one opens its pack again where it is unpickled.

    Every image is read with one `pread` and compared with its checksum. About 50 bytes an image besides the names; what
    a reader holds open does not grow with the data.
    """

    def __init__(self, where: str, *, labels: bool = True, remote_cache: float | None = None):
        """`remote_cache`: GB of local disk for a pack at a URL; None: `where` is a folder."""
        self.where = where
        self._arguments = (where, labels, remote_cache)
        if remote_cache is None:
            self.manifest = Manifest.load(os.path.join(where, MANIFEST), Path(where, MANIFEST).read_bytes())
            index = Path(where, INDEX)
            if not index.exists():
                raise ValueError(f"{index}: missing: the pack is damaged")
            blob = index.read_bytes()
        else:
            from .remote import fetch

            self.manifest = Manifest.load(f"{where}/{MANIFEST}", fetch(f"{where}/{MANIFEST}"))
            blob = fetch(f"{where}/{INDEX}")
        self._load(blob, labels)
        self._firsts = np.array([shard.first for shard in self.manifest.shards], np.int64)
        self._open = lru_cache(maxsize=64)(self._opened)
        self._remote = None
        if remote_cache is None:
            self._check_sizes()
        else:
            from .remote import Blocks, Locations

            files = [shard.file for shard in self.manifest.shards]
            locations = Locations(self._shard_of(np.arange(len(self))), self._start, self._length)
            self._remote = Blocks(where, files, locations, remote_cache)
            self.blocks = self._remote.block
        encoding, unreadable = self.manifest.encoding, self.manifest.unreadable
        size = f"short side {encoding['short_side']} at most" if encoding["short_side"] else "full size"
        self.notes = (
            f"packed as {encoding['format']}, {size}, in {len(self.manifest.shards)} shards"
            + (f"; {unreadable} images could not be read when it was packed" if unreadable else ""),
        )

    def _load(self, blob: bytes, labels: bool) -> None:
        where = f"{self.where}/{INDEX}"
        try:
            with np.load(io.BytesIO(blob), allow_pickle=False) as saved:
                self.names = StringArray.from_arrays(saved)
                numbers, codes = saved["labels"], saved["splits"]
                self._start, self._length, self._crc = saved["start"], saved["length"], saved["crc32"]
                self.full_sizes = full = saved["full"]
                if labels and "tag_counts" in saved:
                    self.multi_hot = multi_hot_of(
                        saved["tag_counts"], saved["tag_positions"], len(self.manifest.classes)
                    )
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error, OSError) as error:
            raise ValueError(f"{where}: damaged: {error}") from None
        if not len(self.names) == len(self._start) == len(full) == sum(shard.rows for shard in self.manifest.shards):
            raise ValueError(f"{where}: damaged: it does not fit {MANIFEST}")
        self.labels, self.classes = None, ()
        if labels and self.manifest.labelled:
            self.labels = numbers.astype(np.int64)
        if self.labels is not None or self.multi_hot is not None:
            self.classes = tuple(self.manifest.classes)
        self.splits = np.array(self.manifest.splits, object)[codes] if self.manifest.splits else None

    def read(self, i: int) -> bytes:
        length = int(self._length[i])
        if not length:
            return b""
        shard = int(self._shard_of(i))
        start = int(self._start[i])
        data = self._remote.read(i) if self._remote else self._open(shard).read(start, length)
        if len(data) != length or zlib.crc32(data) != self._crc[i]:
            raise OSError(f"damaged: its checksum in {self.manifest.shards[shard].file} does not fit")
        return data

    def expect(self, indices: np.ndarray) -> None:
        if self._remote is not None:
            self._remote.expect(indices)

    def damaged(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        damaged = []
        for k, shard in enumerate(self.manifest.shards if self._remote is None else (), 1):
            if digest_of(Path(self.where, shard.file)) != shard.blake2b:
                damaged.append(f"{shard.file}: damaged: its checksum does not fit")
            if progress:
                progress(k, len(self.manifest.shards))
        return damaged

    def _shard_of(self, i: Any) -> np.ndarray:
        return np.searchsorted(self._firsts, i, side="right") - 1

    def _opened(self, shard: int) -> OpenFile:
        return OpenFile(os.path.join(self.where, self.manifest.shards[shard].file))

    def _check_sizes(self) -> None:
        for shard in self.manifest.shards:
            file = Path(self.where, shard.file)
            if not file.exists():
                raise ValueError(f"{file}: missing: the pack is damaged")
            if (size := file.stat().st_size) != shard.bytes:
                raise ValueError(f"{file}: damaged: {size:,} bytes of {shard.bytes:,}")

    def __reduce__(self) -> tuple:
        return _reopen, self._arguments


def _reopen(where: str, labels: bool, remote_cache: float | None) -> PackedSource:
    return PackedSource(where, labels=labels, remote_cache=remote_cache)

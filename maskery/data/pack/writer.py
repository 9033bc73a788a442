"""Write a packed copy of a data set: every image upright, small and quick to read, in shards of a few hundred MB.

Arrow IPC files, not Parquet and not tar: an image lies as it is at a known byte of a shard, so that any image is one
`pread` or one range request, in any order; Parquet is decoded a row group at a time, and a tar has no index of its own.
`datasets`, polars, pandas and every Arrow library read the shards.

Names, order, labels and splits are those of the source, and an image that cannot be read keeps its row, empty: so what
is held out, the order of the samples and every random number are the same from the pack and from the original.
A shard takes its name when it is complete, and is then listed in packing.json; what is not listed is made again.
Shards end at fixed images, however many processes work and however often they are interrupted.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ...outputs import write_file
from ...terminal import Reporter
from ...text import to_bytes
from ..dataset import check_unreadable
from ..decode.unreadable import Unreadable, reason
from ..loader import loader
from ..sources.labels import annotated
from ..sources.source import Source
from ..views import CPU
from .encode import Encoding, encode
from .reader import INDEX, MANIFEST, UNFINISHED, VERSION, Manifest, PackedSource, index_bytes
from .shards import Row, Shard, ShardIndex, printable, read_shard_index, shard_schema, shard_writer

AT_ONCE = 16  # images a process encodes before it hands them over


@dataclass(frozen=True)
class PackOptions:
    encoding: Encoding = field(default_factory=Encoding)
    shard_mb: int = 256
    workers: int | None = None  # processes that encode; None: one a core, 0: this one
    max_unreadable: float = 0.05  # fraction of the images
    overwrite: bool = False  # replace the pack that is there

    def __post_init__(self) -> None:
        if self.shard_mb < 1:
            raise ValueError(f"shard size is {self.shard_mb} MB: at least 1")


def pack_source(source: Source, out: Path, options: PackOptions, report: Reporter) -> tuple[PackedSource, Counter[str]]:
    """Pack `source` into the directory `out`, or go on with the unfinished pack there.

    Returns the pack, and how many images are encoded in which way. Raises ValueError when `out` holds anything but the
    same unfinished pack (with `overwrite`: but a pack), and when too many images cannot be read.
    """
    pack = _Pack(source, out, options)
    pack.finished_shards()  # raises before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        pack.resume(report)
        pack.write_shards(report)
        pack.write_index()
    return PackedSource(str(out.absolute())), sum((index.encodings for index in pack.indexes), Counter())


class _Pack:
    """A pack while it is written."""

    def __init__(self, source: Source, out: Path, options: PackOptions):
        self.source, self.out, self.options = source, out, options
        self.facts = {  # what an unfinished pack is compared by
            "version": VERSION,
            "source": {"where": source.where, "images": len(source), "digest": _digest(source)},
            "encoding": asdict(options.encoding),
            "shard_mb": options.shard_mb,
        }
        self.shards: list[Shard] = []
        self.indexes: list[ShardIndex] = []
        self.skipped: list[tuple[str, str]] = []  # (name, reason)

    def finished_shards(self) -> list[Shard]:
        """Return the shards of this pack in `out`. ValueError when `out` may not be written to."""
        out, overwrite = self.out, self.options.overwrite
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out}: is a file; --out is a directory")
        not_empty = out.is_dir() and any(name != ".lock" for name in os.listdir(out))
        unfinished, packed = (out / UNFINISHED).exists(), (out / MANIFEST).exists()
        if not_empty and overwrite:
            if not unfinished and not packed:
                raise ValueError(f"{out}: holds something else than a pack and is not replaced")
            return []
        if packed:
            raise ValueError(f"{out}: exists already; --overwrite replaces it")
        if unfinished:
            return self._unfinished_shards()
        if not_empty:
            raise ValueError(f"{out}: exists already and holds something else than an unfinished pack")
        return []

    def _unfinished_shards(self) -> list[Shard]:
        """Return the shards that packing.json lists. ValueError when it was begun with other options or images."""
        try:
            state = json.loads((self.out / UNFINISHED).read_bytes())
            begun, shards = _flat(state["plan"]), [Shard(**shard) for shard in state["shards"]]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.out / UNFINISHED}: damaged; --overwrite begins anew") from None
        now = _flat(self.facts)
        name = next((name for name in now if begun.get(name) != now[name]), None)
        if name:
            change = f"{name.replace('_', ' ')} {begun.get(name)!r}, now {now[name]!r}"
            change = "names, labels or splits of the images" if name == "digest" else change
            raise ValueError(
                f"{self.out}: holds an unfinished pack that was begun with other {change}; give the same to go on "
                "with it, or --overwrite to begin anew"
            )
        for k, shard in enumerate(shards):
            file = self.out / shard.file
            if not file.exists() or file.stat().st_size != shard.bytes:  # taken away: this and later ones are redone
                return shards[:k]
        return shards

    def resume(self, report: Reporter) -> None:
        """Go on after the finished shards; remove a pack that is replaced."""
        self.shards = self.finished_shards()
        for entry in () if self.shards else self.out.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._write_state()
        self.indexes = [read_shard_index(self.out / shard.file) for shard in self.shards]
        self.skipped = [pair for index in self.indexes for pair in index.skipped]
        if self.shards:
            report.say(f"going on after {len(self.shards)} finished shards in {self.out}")

    def write_shards(self, report: Reporter) -> None:
        source, done = self.source, sum(shard.rows for shard in self.shards)
        schema = shard_schema(
            source.classes,
            labelled=source.labels is not None,
            multilabel=source.multi_hot is not None,
            split=source.splits is not None,
            text=_all_text(source),
            decodable=self.options.encoding.format == "jpeg",
        )
        rows = _rows(source, self.options, done)
        with report.bar("packing") as tick, contextlib.closing(rows):
            while done < len(source):
                with shard_writer(self.out, len(self.shards), done, schema) as writer:
                    while done < len(source) and writer.bytes < self.options.shard_mb * 1_000_000:
                        row = next(rows)
                        writer.add(row)
                        done += 1
                        tick(done, len(source))
                        self._check(row)
                assert writer.shard
                self.shards.append(writer.shard)
                self.indexes.append(read_shard_index(self.out / writer.shard.file))
                self._write_skipped()
                self._write_state()

    def _check(self, row: Row) -> None:
        """List an image that cannot be read. ValueError when they are too many."""
        if row.reason is not None:
            self.skipped.append((printable(row.name), row.reason))
            if len(self.skipped) > self.options.max_unreadable * len(self.source):
                self._write_skipped()
            check_unreadable(self.source.where, self.skipped, len(self.source), self.options.max_unreadable)

    def write_index(self) -> None:
        """Write what makes the pack complete; the manifest last."""
        source, splits, codes = self.source, [], np.zeros(0, np.int32)
        if source.splits is not None:
            splits = sorted(set(source.splits.tolist()))
            codes = np.searchsorted(np.array(splits, object), source.splits).astype(np.int32)
        manifest = Manifest(
            **self.facts,
            classes=list(source.classes),
            splits=splits,
            labelled=source.labels is not None,
            unreadable=len(self.skipped),
            shards=self.shards,
        )
        index = index_bytes(source.names, source.labels, codes, self.indexes, source.multi_hot)
        write_file(self.out / INDEX, index)
        write_file(self.out / MANIFEST, manifest.dump())
        (self.out / UNFINISHED).unlink()

    def _write_state(self) -> None:
        state = {"plan": self.facts, "shards": [asdict(shard) for shard in self.shards]}
        write_file(self.out / UNFINISHED, json.dumps(state, indent=1).encode())

    def _write_skipped(self) -> None:
        lines = "".join(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in self.skipped)
        write_file(self.out / "skipped.jsonl", lines.encode())


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts["source"], **facts["encoding"], "shard_mb": facts["shard_mb"], "version": facts["version"]}


class _EncodedImages(Dataset[list[Row]]):
    """Item k: the k-th `AT_ONCE` images after `first`, encoded."""

    def __init__(self, source: Source, encoding: Encoding, first: int):
        self.source, self.encoding, self.first = source, encoding, first

    def __len__(self) -> int:
        return -(-(len(self.source) - self.first) // AT_ONCE)

    def __getitem__(self, k: int) -> list[Row]:
        start = self.first + k * AT_ONCE
        return [self._row(i) for i in range(start, min(start + AT_ONCE, len(self.source)))]

    def _row(self, i: int) -> Row:
        source = self.source
        label = int(source.labels[i]) if source.labels is not None else -1
        if source.multi_hot is not None and annotated(source.multi_hot[i : i + 1])[0]:
            label = np.flatnonzero(source.multi_hot[i]).tolist()
        split = source.splits[i] if source.splits is not None else ""
        name = to_bytes(source.names[i])
        try:
            new = encode(source.read(i), self.encoding)
        except (Unreadable, OSError) as error:
            return Row(name, label, split, None, (0, 0), (0, 0), "", 0, reason(error))
        return Row(name, label, split, new.data, new.size, new.full, new.kind, zlib.crc32(new.data), None)


def _rows(source: Source, options: PackOptions, first: int) -> Generator[Row]:
    """Yield the encoded images from `first` on, in order."""
    workers = (os.cpu_count() or 1) if options.workers is None else options.workers
    data = _EncodedImages(source, options.encoding, first)
    for rows in loader(data, range(len(data)), workers, CPU):
        yield from rows


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """ValueError when another process packs into `out`. The lock ends with its process, whatever ends that."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not held on by workers that outlive us
        except OSError:
            raise ValueError(f"{out}: another process is packing into it") from None
        yield
        (out / ".lock").unlink()


def _digest(source: Source) -> str:
    """Of names, labels, classes and splits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in source.names:
        digest.update(to_bytes(name) + b"\0")
    digest.update(b"" if source.labels is None else source.labels.tobytes())
    digest.update(b"" if source.multi_hot is None else source.multi_hot.tobytes())
    digest.update(json.dumps([source.classes, None if source.splits is None else source.splits.tolist()]).encode())
    return digest.hexdigest()


def _all_text(source: Source) -> bool:
    try:
        for name in source.names:
            name.encode()
    except UnicodeEncodeError:
        return False
    return True

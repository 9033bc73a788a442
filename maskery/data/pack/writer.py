"""A packed copy of a data set: every image upright, small and quick to read, in shards of a few hundred MB.

Arrow IPC files, not Parquet and not tar: an image lies as it is at a known byte of a shard, so that any image is one
`pread` or one range request, in any order; Parquet is decoded a row group at a time, and a tar has no index of its own.
`datasets`, polars, pandas and every Arrow library read the shards.

Names, order, labels and splits are those of the source, and an image that cannot be read keeps its row, empty: so what
is held out, the order of the samples and every random draw are the same from the pack and from the original.
Nothing is ever half there: a shard is written under another name, synced, renamed, and then listed in packing.json;
what is not listed is made again. Shards end at fixed images, however many processes work and however often they stop.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...outputs import write_file
from ...terminal import Reporter
from ...text import to_bytes
from ..dataset import check_unreadable
from ..decode.unreadable import Unreadable, reason
from ..loader import begin_worker
from ..sources.labels import annotated
from ..sources.source import Source
from .encode import Encoding, encode
from .reader import INDEX, MANIFEST, UNFINISHED, VERSION, Manifest, PackedSource, write_index
from .shards import Row, Shard, Writer, places, printable, schema

AT_ONCE = 16  # images a process encodes before it hands them over


def pack_source(
    source: Source,
    out: Path,
    how: Encoding,
    report: Reporter,
    *,
    shard_mb: int = 256,
    workers: int | None = None,
    unreadable: float = 0.05,
    overwrite: bool = False,
) -> tuple[PackedSource, Counter[str]]:
    """Pack `source` into the directory `out`, or go on with the pack that is unfinished there.

    `workers` processes encode (None: one a core, 0: none beside this one). Returns the pack and how many images are
    encoded how. Raises ValueError when `out` holds anything but the same unfinished pack (`overwrite`: but a pack), and
    when more than the share `unreadable` of the images cannot be read.
    """
    if shard_mb < 1:
        raise ValueError(f"shard size is {shard_mb} MB: at least 1")
    splits = [] if source.splits is None else sorted(set(source.splits.tolist()))
    plan = {
        "version": VERSION,
        "source": {"where": source.where, "images": len(source), "digest": _digest(source)},
        "encoding": asdict(how),
        "shard_mb": shard_mb,
    }
    _found(out, plan, overwrite)  # what is wrong with `out` is said before anything is written into it
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        finished = _found(out, plan, overwrite)
        for entry in () if finished else out.iterdir():  # of a pack that is replaced
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_file(out / UNFINISHED, _state(plan, finished))
        parts = [places(out / shard.file) for shard in finished]
        skipped = [pair for part in parts for pair in part.skipped]
        done = sum(shard.rows for shard in finished)
        if finished:
            report.say(f"going on after {len(finished)} finished shards in {out}")
        of = schema(
            source.classes,
            labelled=source.labels is not None,
            tagged=source.multi_hot is not None,
            split=source.splits is not None,
            text=_all_text(source),
            decodable=how.format == "jpeg",
        )
        with report.bar("packing") as tick, contextlib.closing(_rows(source, how, workers, done)) as rows:
            while done < len(source):
                with Writer(out, len(finished), done, of) as writer:
                    while done < len(source) and writer.bytes < shard_mb * 1_000_000:
                        row = next(rows)
                        writer.add(row)
                        done += 1
                        tick(done, len(source))
                        if row.reason is not None:
                            skipped.append((printable(row.name), row.reason))
                            if len(skipped) > unreadable * len(source):
                                _list(out, skipped)
                            check_unreadable(source.where, skipped, len(source), unreadable)
                    finished.append(writer.finish())
                parts.append(places(out / finished[-1].file))
                _list(out, skipped)
                write_file(out / UNFINISHED, _state(plan, finished))
        manifest = Manifest(
            **plan,
            classes=list(source.classes),
            splits=splits,
            labelled=source.labels is not None,
            unreadable=len(skipped),
            shards=finished,
        )
        codes = np.zeros(0, np.int32)
        if source.splits is not None:
            codes = np.searchsorted(np.array(splits, object), source.splits).astype(np.int32)
        write_file(out / INDEX, write_index(source.names, source.labels, codes, parts, source.multi_hot))
        write_file(out / MANIFEST, manifest.dump())
        (out / UNFINISHED).unlink()
    return PackedSource(str(out.absolute())), sum((part.encodings for part in parts), Counter())


class _Encoded(Dataset[list[Row]]):
    """Item k: the k-th `AT_ONCE` images after `first`, encoded."""

    def __init__(self, source: Source, how: Encoding, first: int):
        self.source, self.how, self.first = source, how, first

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
            new = encode(source.read(i), self.how)
        except (Unreadable, OSError) as error:
            return Row(name, label, split, None, (0, 0), (0, 0), "", 0, reason(error))
        return Row(name, label, split, new.data, new.size, new.full, new.kind, zlib.crc32(new.data), None)


def _rows(source: Source, how: Encoding, workers: int | None, first: int) -> Generator[Row]:
    """The images from `first` on, in order."""
    workers = (os.cpu_count() or 1) if workers is None else workers
    loader = DataLoader(
        _Encoded(source, how, first),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=begin_worker if workers else None,
    )
    for rows in loader:
        yield from rows


def _found(out: Path, plan: dict[str, Any], overwrite: bool) -> list[Shard]:
    """The finished shards of this pack in `out`. ValueError when `out` may not be written to."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; --out is a directory")
    there = out.is_dir() and any(name != ".lock" for name in os.listdir(out))
    unfinished, packed = (out / UNFINISHED).exists(), (out / MANIFEST).exists()
    if there and overwrite:
        if not unfinished and not packed:
            raise ValueError(f"{out}: holds something else than a pack and is not replaced")
        return []
    if packed:
        raise ValueError(f"{out}: exists already; --overwrite replaces it")
    if unfinished:
        return _finished(out, plan)
    if there:
        raise ValueError(f"{out}: exists already and holds something else than an unfinished pack")
    return []


def _finished(out: Path, plan: dict[str, Any]) -> list[Shard]:
    try:
        state = json.loads((out / UNFINISHED).read_bytes())
        begun, shards = state["plan"], [Shard(**shard) for shard in state["shards"]]
        flat = {**begun["source"], **begun["encoding"], "shard_mb": begun["shard_mb"], "version": begun["version"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out / UNFINISHED}: damaged; --overwrite begins anew") from None
    now = {**plan["source"], **plan["encoding"], "shard_mb": plan["shard_mb"], "version": VERSION}
    other = [name for name in now if flat.get(name) != now[name]]
    if other:
        name = other[0]
        what = "names, labels or splits of the images" if name == "digest" else f"{name.replace('_', ' ')} "
        values = "" if name == "digest" else f"{flat.get(name)!r}, now {now[name]!r}"
        raise ValueError(
            f"{out}: holds an unfinished pack that was begun with other {what}{values}; give the same to go on with "
            "it, or --overwrite to begin anew"
        )
    for k, shard in enumerate(shards):
        file = out / shard.file
        if not file.exists() or file.stat().st_size != shard.bytes:  # somebody took it away: from here on again
            return shards[:k]
    return shards


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """ValueError when another process packs into `out`. The lock ends with its process, whatever ends that."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not held on by workers that outlive us
        except OSError:
            raise ValueError(f"{out}: another process is packing into it") from None
        yield
        (out / ".lock").unlink()


def _state(plan: dict[str, Any], finished: list[Shard]) -> bytes:
    return json.dumps({"plan": plan, "shards": [asdict(shard) for shard in finished]}, indent=1).encode()


def _list(out: Path, skipped: list[tuple[str, str]]) -> None:
    write_file(out / "skipped.jsonl", "".join(json.dumps({"name": n, "reason": r}) + "\n" for n, r in skipped).encode())


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

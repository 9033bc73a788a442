"""Seconds to open a million files, and bytes of memory that their index takes.

    python -m benchmarks.start [--images 1000000] [--json FILE]

A folder whose scan is cached, and a pack. The files do not exist: neither is read.
"""

import argparse
import json
import os
import pickle
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskery.data.pack.reader import index_bytes
from maskery.data.pack.shards import ShardIndex
from maskery.data.sources.names import StringArray
from maskery.data.sources.open import open_source
from maskery.data.sources.scan import Scan, _cache_file, _save
from maskery.data.sources.source import Source, split_indices

PER_FOLDER = 1000


def folder(root: Path, n: int) -> Path:
    """Make `root` with the cache of a scan of n images."""
    folders = tuple(b"train/n%08d" % k for k in range(-(-n // PER_FOLDER)))
    for name in folders:
        (root / name.decode()).mkdir(parents=True)
    names = StringArray.of([b"%s/n%08d_%06d.JPEG" % (folders[k // PER_FOLDER], k // PER_FOLDER, k) for k in range(n)])
    places = np.arange(n, dtype=np.int32) // PER_FOLDER
    stamps = {p: (root / p.decode()).stat().st_mtime_ns for p in (b"", b"train/", *(f + b"/" for f in folders))}
    _save(_cache_file(str(root)), str(root), Scan(names, folders, places, (), {}, ()), stamps)
    return root


def pack(root: Path, n: int) -> Path:
    """Make a pack of n images whose only shard is empty."""
    root.mkdir()
    names = StringArray.of([b"train/n%08d/n%08d_%06d.JPEG" % (k // PER_FOLDER, k // PER_FOLDER, k) for k in range(n)])
    numbers = np.arange(n)
    part = ShardIndex(numbers, np.ones(n, np.uint32), np.zeros(n, np.uint32), np.zeros((n, 2), np.int32), [], {})  # type: ignore[arg-type]
    (root / "index.npz").write_bytes(index_bytes(names, numbers // PER_FOLDER, np.zeros(n, np.int32), [part]))
    about = {"version": 1, "source": {}, "encoding": {"format": "jpeg", "short_side": 256}, "shard_mb": 256}
    shard = {"file": "shard-00000.arrow", "first": 0, "rows": n, "bytes": 0, "blake2b": ""}
    about |= {"classes": [str(k) for k in range(-(-n // PER_FOLDER))], "splits": ["train"], "labelled": True}
    (root / "pack.json").write_text(json.dumps(about | {"unreadable": 0, "shards": [shard]}))
    (root / "shard-00000.arrow").touch()
    return root


def timed(work: Callable[[], Any], rounds: int = 5) -> float:
    """Measure CPU seconds, the median of the rounds: wall time includes other processes of the machine."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return float(np.median(taken))


def held(where: Path) -> tuple[float, float]:
    """Measure bytes an image: of the index in memory, and sent to a spawned process."""
    tracemalloc.start()
    source = open_source(where)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return memory / len(source), len(pickle.dumps(source)) / len(source)


def opened(where: Path) -> Source:
    source = open_source(where)
    split_indices(source, 0.05)
    return source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["MASKERY_CACHE"] = str(Path(home, "cache"))
        for what, make in (("folder, scan cached", folder), ("pack", pack)):
            where = make(Path(home, what.split(",")[0]), args.images)
            memory, sent = held(where)
            seconds = {"open": timed(lambda w=where: open_source(w)), "and_split": timed(lambda w=where: opened(w))}
            rows.append({"what": what, **seconds, "bytes_held": memory, "bytes_sent": sent})
    print(f"{args.images:,} images, one core of {platform.machine()}")
    for row in rows:
        print(
            f"{row['what']:20} open {row['open']:.2f} s, with the split {row['and_split']:.2f} s, "
            f"{row['bytes_held']:.0f} bytes an image held, {row['bytes_sent']:.1f} sent to a spawned worker"
        )
    if args.json:
        args.json.write_text(json.dumps({"images": args.images, "python": platform.python_version(), "rows": rows}))


if __name__ == "__main__":
    main()

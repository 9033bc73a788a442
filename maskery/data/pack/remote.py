"""A pack in object storage or on a web server, through fsspec: s3://, gs://, https://, memory://, ...

Ways to read D bytes of images on M machines of W loader processes, counted per epoch:

- Each image by itself: D in all, but a request an image. 6,700 images/s for one GPU would be more requests than
  a prefix of S3 serves (5,500 a second).
- Blocks of 8 MB, each process for itself: W M D, as every process needs some image of every block.
- Complete shards on the machine's disk: M D, once. An order of all images needs nearly all of them in the first step.
- Blocks on the machine's disk: M D, once where they fit, else M D (1 + window / blocks) every epoch. Taken.

The order of images draws from a window of blocks (`order.window_order`), so that blocks come and go one by one; the
process that needs a block first fetches it into a folder of the machine, all others wait for that. Evaluations of a few
images fetch these alone. A process holds at most `AT_ONCE` blocks in memory, while it fetches them: 64 MB.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..order import WINDOW
from .shards import OpenFile

BLOCK = 8_000_000  # bytes of consecutive images that are fetched together; stores advise requests of 8 to 16 MB
AT_ONCE = 8  # requests of one process
TRIES = 5


def is_url(where: str | os.PathLike[str]) -> bool:
    return re.match(r"[a-z0-9+.]+:/", str(where)) is not None  # a `Path` of a URL has lost a slash


def fetch(url: str, start: int | None = None, end: int | None = None, *, tries: int = TRIES) -> bytes:
    """Fetch the bytes start .. end - 1 of a file (None: all of it).

    Raises ValueError when it is not there or its protocol is not installed, RuntimeError when it cannot be read for
    other reasons, after so many tries: storage that fails must stop a run, not pass for an unreadable image.
    """
    system, path = _system(url)
    for last in range(tries):
        try:
            data = system.cat_file(path, start=start, end=end)
            if end is not None and start is not None and len(data) != end - start:
                raise OSError(f"{len(data)} bytes where {end - start} were asked for: are parts of files served?")
            return data
        except FileNotFoundError:
            raise ValueError(f"{url}: no such file") from None
        except Exception as error:  # every storage has its own
            if last + 1 == tries:
                text = " ".join(str(error).split()) or type(error).__name__
                raise RuntimeError(f"{url}: cannot be read, tried {tries} times: {text}") from error
            time.sleep(0.1 * 4**last)
    raise AssertionError


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)  # the same object each time, a new one after a fork
    except ImportError as error:
        raise ValueError(f"{url}: {error}; pip install '.[remote]'") from None
    except ValueError as error:  # a protocol nobody knows
        raise ValueError(f"{url}: {error}") from None


@dataclass(frozen=True)
class Locations:
    """Where the images of a pack lie; [n] each."""

    shard: np.ndarray
    start: np.ndarray  # byte in the shard
    length: np.ndarray

    def blocks(self, size: int = BLOCK) -> np.ndarray:
        """Return the block of each image, int32 [n]: consecutive images of one shard, up to `size` bytes of it."""
        first = np.concatenate([[True], self.shard[1:] != self.shard[:-1]])
        begin = self.start[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]  # of each image's shard
        part = (self.start + self.length - begin) // size
        return np.cumsum(first | np.concatenate([[False], part[1:] != part[:-1]]), dtype=np.int32) - 1


class Blocks:
    """The images of a pack at `url`, read in blocks that a folder of this machine caches."""

    def __init__(self, url: str, files: Sequence[str], locations: Locations, cache: float, *, size: int = BLOCK):
        """`files`: of the shards; `cache`: GB of disk at most; `size`: bytes of a block."""
        self.url, self.files, self._locations = url, files, locations
        self.block = locations.blocks(size)
        self._limit = cache * 1e9
        edges = np.flatnonzero(np.diff(self.block, prepend=-1))  # the first image of each block
        last = np.append(edges[1:], len(self.block)) - 1
        self._from, self._to = locations.start[edges], (locations.start + locations.length)[last]
        self._shard = locations.shard[edges]
        needed = min(float((self._to - self._from).sum()), 1.5 * WINDOW * size)
        if self._limit < needed:
            raise ValueError(
                f"images.cache is {cache:g} GB: {url} needs {needed / 1e9:.2g} at least, on the disk of "
                f"{cache_folder()} (MASKERY_CACHE names another)"
            )
        identity = repr((url, files, int(locations.length.sum()), size)).encode()
        self._folder = cache_folder() / f"remote-{hashlib.blake2b(identity, digest_size=12).hexdigest()}"
        self._open = lru_cache(maxsize=64)(lambda block: OpenFile(self._path(block)))
        self.fetched = 0  # bytes, by this process

    def read(self, i: int) -> bytes:
        block, start, length = int(self.block[i]), int(self._locations.start[i]), int(self._locations.length[i])
        try:
            return self._open(block).read(start - int(self._from[block]), length)
        except FileNotFoundError:
            self.fetched += length
            return fetch(self._url(block), start, start + length)

    def expect(self, indices: np.ndarray) -> None:
        """Fetch the blocks of these images that are not cached."""
        missing = [b for b in np.unique(self.block[indices]).tolist() if not self._path(b).exists()]
        if missing:
            self._folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._download, missing))
            self._make_room()

    def _path(self, block: int) -> Path:
        return self._folder / f"block-{block:07d}"

    def _url(self, block: int) -> str:
        return f"{self.url}/{self.files[int(self._shard[block])]}"

    def _download(self, block: int) -> None:
        """Fetch a block, unless another process does: then wait for it. The lock ends with its process."""
        path = self._path(block)
        while not path.exists():
            with (self._folder / f"partial-{block:07d}").open("ab") as partial:
                fcntl.flock(partial, fcntl.LOCK_EX)
                if path.exists() or not _is_open_as(partial.name, partial.fileno()):  # renamed while we waited
                    continue
                start, end = int(self._from[block]), int(self._to[block])
                data = fetch(self._url(block), start, end) if end > start else b""
                partial.truncate(0)
                partial.write(data)
                partial.flush()
                os.rename(partial.name, path)
                self.fetched += len(data)

    def _make_room(self) -> None:
        """Remove the oldest blocks, which have left the window, until nine tenths of the limit are used."""
        with os.scandir(self._folder) as entries:
            blocks = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                    if entry.name.startswith("block-"):
                        blocks.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        total = sum(size for _, size, _ in blocks)
        if total <= self._limit:
            return
        for _, size, path in sorted(blocks):
            if total <= 0.9 * self._limit:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def _is_open_as(path: str, handle: int) -> bool:
    """Whether `path` is still the file that is open as `handle`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def cache_folder() -> Path:
    """Return the folder of this machine for files that can be made again."""
    home = os.environ.get("MASKERY_CACHE")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "maskery")

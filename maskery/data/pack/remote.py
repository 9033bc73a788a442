"""A pack in object storage or on a web server, through fsspec: s3://, gs://, https://, memory://, ...

Ways to read D bytes of images on M machines of W loader processes, counted per epoch:

- Each image by itself: D in all, but a request an image. 6,700 images/s for one GPU would be more requests than
  a prefix of S3 serves (5,500 a second).
- Blocks of 8 MB, each process for itself: W M D, as every process needs some image of every block.
- Whole shards kept on the machine's disk: M D, once. An order of all images needs nearly all of them in the first step.
- Blocks kept on the machine's disk: M D, once where they fit, else M D (1 + window / blocks) every epoch. Taken.

Images are drawn in a window of blocks (`window_order`), so that blocks come and go one by one; whoever needs a block
first fetches it into a folder of the machine, all others wait for that. Looks at a few images fetch these alone. A
process holds at most `AT_ONCE` blocks in memory, while it fetches them: 64 MB.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 8_000_000  # bytes of consecutive images that are fetched together; stores advise requests of 8 to 16 MB
WINDOW = 256  # blocks that are drawn from at a time: about 100,000 JPEGs with a short side of 256
AT_ONCE = 8  # requests of one process
TRIES = 5


def is_url(where: str | os.PathLike[str]) -> bool:
    return re.match(r"[a-z0-9+.]+:/", str(where)) is not None  # a `Path` of a URL has lost a slash


def fetch(url: str, start: int | None = None, end: int | None = None, *, tries: int = TRIES) -> bytes:
    """The bytes start .. end - 1 of a file (None: all of it).

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


def blocks_of(shard: np.ndarray, start: np.ndarray, length: np.ndarray, size: int = BLOCK) -> np.ndarray:
    """Which block each image lies in, int32 [n]: consecutive images of one shard, up to `size` bytes of it."""
    first = np.concatenate([[True], shard[1:] != shard[:-1]])
    begin = start[np.maximum.accumulate(np.where(first, np.arange(len(shard)), 0))]  # of each image's shard
    part = (start + length - begin) // size
    return np.cumsum(first | np.concatenate([[False], part[1:] != part[:-1]]), dtype=np.int32) - 1


class Blocks:
    """The images of a pack at `url`, read in blocks that a folder of this machine keeps."""

    def __init__(
        self,
        url: str,
        files: Sequence[str],
        shard: np.ndarray,
        start: np.ndarray,
        length: np.ndarray,
        cache: float,
        *,
        size: int = BLOCK,
    ):
        """`shard`, `start`, `length` [n]: where each image lies; `cache`: GB of disk at most."""
        self.url, self.files, self._shard, self._start, self._length = url, files, shard, start, length
        self.block = blocks_of(shard, start, length, size)
        self._limit = cache * 1e9
        edges = np.flatnonzero(np.diff(self.block, prepend=-1))
        last = np.append(edges[1:], len(shard)) - 1
        self._from, self._to = start[edges], (start + length)[last]
        self._of = shard[edges]
        needed = min(float((self._to - self._from).sum()), 1.5 * WINDOW * size)
        if self._limit < needed:
            raise ValueError(
                f"images.cache is {cache:g} GB: {url} needs {needed / 1e9:.2g} at least, on the disk of "
                f"{cache_folder()} (MASKERY_CACHE names another)"
            )
        about = repr((url, files, int(length.sum()), size)).encode()
        self._folder = cache_folder() / f"remote-{hashlib.blake2b(about, digest_size=12).hexdigest()}"
        self._open = lru_cache(maxsize=64)(self._opened)
        self.fetched = 0  # bytes, by this process

    def read(self, i: int) -> bytes:
        block, start, length = int(self.block[i]), int(self._start[i]), int(self._length[i])
        try:
            return os.pread(self._open(block).handle, length, start - int(self._from[block]))
        except FileNotFoundError:
            self.fetched += length
            return fetch(f"{self.url}/{self.files[int(self._shard[i])]}", start, start + length)

    def expect(self, indices: np.ndarray) -> None:
        """Have the blocks of these images here."""
        missing = [b for b in np.unique(self.block[indices]).tolist() if not self._path(b).exists()]
        if missing:
            self._folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._bring, missing))
            self._make_room()

    def _path(self, block: int) -> Path:
        return self._folder / f"block-{block:07d}"

    def _opened(self, block: int) -> "_Open":
        return _Open(self._path(block))

    def _bring(self, block: int) -> None:
        """Fetch a block, unless another process does: then wait for it. The lock ends with its process."""
        path = self._path(block)
        while not path.exists():
            with (self._folder / f"half-{block:07d}").open("ab") as half:
                fcntl.flock(half, fcntl.LOCK_EX)
                if path.exists() or not _still(half.name, half.fileno()):  # it was renamed while we waited
                    continue
                start, end = int(self._from[block]), int(self._to[block])
                data = fetch(f"{self.url}/{self.files[int(self._of[block])]}", start, end) if end > start else b""
                half.truncate(0)
                half.write(data)
                half.flush()
                os.rename(half.name, path)
                self.fetched += len(data)

    def _make_room(self) -> None:
        """Forget the blocks that came first until nine tenths of the limit are kept: they have left the window."""
        with os.scandir(self._folder) as entries:
            found = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process makes room as well
                    if entry.name.startswith("block-"):
                        found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        total = sum(size for _, size, _ in found)
        if total <= self._limit:
            return
        for _, size, path in sorted(found):
            if total <= 0.9 * self._limit:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


class _Open:
    """An open file that threads may share; one that is forgotten can still be read by who holds it."""

    def __init__(self, path: Path):
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


def _still(path: str, handle: int) -> bool:
    """Whether `path` is still the file that is open as `handle`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def cache_folder() -> Path:
    """Where this machine keeps what can be made again."""
    home = os.environ.get("MASKERY_CACHE")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "maskery")


def window_order(blocks: np.ndarray, seed: int, epoch: int, window: int = WINDOW) -> np.ndarray:
    """An order of n images that draws from `window` blocks at a time: [n], a function of these arguments alone.

    `blocks` [n]: each image's block. Blocks are permuted; an image of the block at place j is drawn at the time
    (j + window * u) modulo the number of blocks, u uniform in [0, 1). So every stretch of the epoch draws from `window`
    blocks, each enters and leaves by itself, and with window = number of blocks it is a permutation of all images.
    """
    there, place = np.unique(blocks, return_inverse=True)
    draw = np.random.default_rng([seed, epoch])
    time_of = draw.permutation(len(there))[place] + min(window, len(there)) * draw.random(len(blocks))
    return np.argsort(time_of % len(there), kind="stable")

"""Decoded images in memory, once per machine: each of its processes decodes a part, and all of them read everything.

The memory is that of files without a name (`memfd_create`), which no limit of /dev/shm concerns: loader workers inherit
it, other processes of the machine open it through /proc/PID/fd, and it is freed when the last of them ends.
"""

import mmap
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..distributed import ALONE, World
from .decode.picture import Picture
from .decode.unreadable import Unreadable

Progress = Callable[[int, int], None]  # (done, total)

CHUNK = 256  # images that are decoded before the budget is checked
# A row of the table behind the pixels: the image, where its array lies, the rest of its `Picture`; shape 0: unreadable.
_ROW = np.dtype([("image", "i8"), ("offset", "i8"), ("shape", "i4", 3), ("size", "i4", 2), ("extent", "f8", 4)])


@dataclass(frozen=True)
class Decoder:
    """The images of a source that a cache may hold."""

    decode: Callable[[int], Picture]  # raises `Unreadable`
    count: int
    bits: int
    expect: Callable[[np.ndarray], None] = lambda indices: None  # called with the images that come next

    def attempt(self, i: int) -> Picture | str:
        """Decode image i, or return why it cannot be read."""
        try:
            return self.decode(i)
        except Unreadable as error:
            return str(error)


@dataclass(frozen=True)
class Part:
    """The images that one process decoded into a file in memory."""

    path: str
    pixels: int = 0  # bytes
    rows: int = 0  # of the table behind them
    problems: dict[int, str] = field(default_factory=dict)  # why images cannot be read
    failure: str = ""  # why this part is not usable


class MemoryCache:
    """Pictures by their position in the source, in shared memory; writing into an array copies its pages."""

    def __init__(self, count: int, bits: int, parts: Sequence[Part]):
        self.count, self.bits, self.parts = count, bits, parts
        self.problems = {i: reason for part in parts for i, reason in part.problems.items()}
        self.nbytes = sum(part.pixels for part in parts)
        self.file: _MemoryFile | None = None  # this process's own: others can open it as long as it is open
        self._part, self._row = np.full(count, -1, np.int16), np.zeros(count, np.int32)  # of image i
        self._memory: list[mmap.mmap] = []
        self._tables: list[np.ndarray] = []
        for k, part in enumerate(parts):
            with open(part.path, "rb") as file:
                # Private and writable: torch warns of read-only arrays, and no process can change what others see.
                memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            table = np.frombuffer(memory, _ROW, part.rows, part.pixels)
            self._memory.append(memory)
            self._tables.append(table)
            self._part[table["image"]], self._row[table["image"]] = k, np.arange(part.rows)

    def __getitem__(self, i: int) -> Picture:
        """Raises `Unreadable`, and KeyError for an image that is not in the cache."""
        k = int(self._part[i])
        if k < 0:
            raise KeyError(i)
        if i in self.problems:
            raise Unreadable(self.problems[i])
        row = self._tables[k][self._row[i]]
        shape, dtype = tuple(row["shape"].tolist()), np.uint8 if self.bits == 8 else np.uint16
        array = np.frombuffer(self._memory[k], dtype, int(np.prod(shape)), int(row["offset"])).reshape(shape)
        height, width = row["size"].tolist()
        left, top, right, bottom = row["extent"].tolist()
        return Picture(array, height, width, (left, top, right, bottom))

    def __contains__(self, i: int) -> bool:
        return bool(self._part[i] >= 0)

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple:  # for spawned workers: while this process lives, its files can be opened
        return MemoryCache, (self.count, self.bits, self.parts)


def fill_cache(
    decoder: Decoder,
    indices: Sequence[int],
    budget: float,
    world: World | None = None,
    progress: Progress | None = None,
) -> tuple[MemoryCache | None, str]:
    """Decode `indices` into the memory of this machine: (the cache, why there is none).

    All processes call this together. There is none when it would take more than `budget` bytes of the machine (0:
    nothing is tried), or when there is no such memory.
    """
    world = world or ALONE
    machines = world.gather(_machine())
    local = [rank for rank, machine in enumerate(machines) if machine == machines[world.rank]]
    at, n, count = local.index(world.rank), len(indices), len(local)
    file = _MemoryFile()
    part = file.fill(decoder, list(indices[at * n // count : (at + 1) * n // count]), budget / count, count, progress)
    parts = [part for rank, part in enumerate(world.gather(part)) if rank in local]
    cache, failure = None, next((part.failure for part in parts if part.failure), "")
    if not failure:
        try:
            cache = MemoryCache(decoder.count, decoder.bits, parts)
            cache.file = file
        except (OSError, MemoryError, ValueError) as error:
            failure = f"processes of this machine cannot share memory: {error}"
    failures = world.gather(failure)  # no process may close its file before all have opened it
    failure = next((failures[rank] for rank in local if failures[rank]), "")
    return (None, failure) if failure else (cache, "")


class _BudgetExceeded(Exception):
    pass


class _MemoryFile:
    """A file in memory, without a name, of this process and those that open it."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("maskery-images", os.MFD_CLOEXEC)
        else:  # not Linux: an unlinked file on the disk
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self.fd)

    def fill(
        self, decoder: Decoder, indices: list[int], budget: float, processes: int, progress: Progress | None
    ) -> Part:
        """Decode images into this file, with the threads that `processes` of this machine leave each other."""
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        problems: dict[int, str] = {}
        try:
            with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // processes)) as pool:  # decoders release the GIL
                table, end = self._write_pictures(decoder, indices, budget, problems, pool, progress)
            pixels = -(-end // 64) * 64
            os.ftruncate(self.fd, self._write(table, pixels) or 1)
            return Part(path, pixels, len(indices), problems)
        except (OSError, MemoryError) as error:
            failure = f"there is not enough memory: {error}"
        except _BudgetExceeded:
            failure = "they would take more than images.memory or half of this machine's memory"
        return Part(path, failure=failure)

    def _write_pictures(
        self,
        decoder: Decoder,
        indices: list[int],
        budget: float,
        problems: dict[int, str],
        pool: ThreadPoolExecutor,
        progress: Progress | None,
    ) -> tuple[np.ndarray, int]:
        """Write the pixels of all images; return their table, and where they end."""
        if budget <= 0:
            raise _BudgetExceeded
        table, end = np.zeros(len(indices), _ROW), 0
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            decoder.expect(np.array(chunk))
            for k, (i, picture) in enumerate(zip(chunk, pool.map(decoder.attempt, chunk), strict=True), start):
                table[k]["image"] = i
                if isinstance(picture, str):
                    problems[i] = picture
                    continue
                array = np.ascontiguousarray(picture.array)
                table[k] = (i, end, array.shape, (picture.height, picture.width), picture.extent)
                end = self._write(array, end)
                if end > budget:
                    raise _BudgetExceeded
            if end / (start + len(chunk)) * len(indices) > 1.5 * budget:
                raise _BudgetExceeded
            if progress:
                progress(start + len(chunk), len(indices))
        return table, end

    def _write(self, array: np.ndarray, at: int) -> int:
        """Write an array at byte `at`; return where it ends."""
        data = memoryview(array.reshape(-1).view(np.uint8).data)
        while len(data):
            written = os.pwrite(self.fd, data, at)
            data, at = data[written:], at + written
        return at


def _machine() -> str:
    """Return a name that all processes of one running machine share."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()

"""Decoded images in memory, once per machine: every process on it decodes a share, and all look at all of them.

The memory is that of files without a name (`memfd_create`), which no limit of /dev/shm concerns: loader workers inherit
it, other processes of the machine open it through /proc/PID/fd, and it is gone when the last of them is, whatever ended
them.
"""

import mmap
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..distributed import World
from .decode.picture import Picture
from .decode.unreadable import Unreadable

Progress = Callable[[int, int], None]  # (done, total)

_ROW = np.dtype(
    [("image", "i8"), ("offset", "i8"), ("shape", "i4", 3), ("size", "i4", 2), ("whole", "f8", 4)]
)  # of a table behind the pixels: which image, where its array is, and what a `Picture` says of it; shape 0: unreadable


class MemoryCache:
    """Pictures by their position in the source. The arrays lie in shared memory; writing into one copies its pages."""

    def __init__(self, n: int, bits: int, files: Sequence[tuple[str, int, int]], problems: dict[int, str]):
        """`files`: (path, bytes of pixels, rows of its table); `problems`: why images cannot be read."""
        self._arguments = (n, bits, list(files), problems)
        self.problems = problems
        self.bits, self.nbytes = bits, sum(pixels for _, pixels, _ in files)
        self._file, self._row = np.full(n, -1, np.int16), np.zeros(n, np.int32)  # of image i
        self.handle: _Handle | None = None  # of this process's own file: others open it as long as it is held
        self._memory: list[mmap.mmap] = []
        self._tables: list[np.ndarray] = []
        for k, (path, pixels, rows) in enumerate(files):
            memory, table = _mapped(path, pixels, rows)
            self._memory.append(memory)
            self._tables.append(table)
            self._file[table["image"]], self._row[table["image"]] = k, np.arange(rows)

    def __getitem__(self, i: int) -> Picture:
        """Raises `Unreadable`, and KeyError for an image that is not kept."""
        k = int(self._file[i])
        if k < 0:
            raise KeyError(i)
        if i in self.problems:
            raise Unreadable(self.problems[i])
        row = self._tables[k][self._row[i]]
        shape, dtype = tuple(row["shape"].tolist()), np.uint8 if self.bits == 8 else np.uint16
        array = np.frombuffer(self._memory[k], dtype, int(np.prod(shape)), int(row["offset"])).reshape(shape)
        height, width = row["size"].tolist()
        left, top, right, bottom = row["whole"].tolist()
        return Picture(array, height, width, (left, top, right, bottom))

    def __contains__(self, i: int) -> bool:
        return bool(self._file[i] >= 0)

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple:  # for workers that are spawned: while this process lives, its files can be opened
        return MemoryCache, self._arguments


def decode_into_memory(
    decode: Callable[[int], Picture],
    indices: Sequence[int],
    n: int,
    bits: int,
    budget: float,
    *,
    world: World | None = None,
    expect: Callable[[np.ndarray], None] | None = None,
    progress: Progress | None = None,
) -> tuple[MemoryCache | None, str]:
    """Decode `indices`, of n images, into the memory of this machine: (what is kept, why nothing is).

    All processes of the machine call this together, and each decodes a share; None when all of it would take more
    than `budget` bytes (0: nothing is tried), or when there is no such memory. `expect` is told which images come next.
    """
    here = [_machine()] if world is None else world.gather(_machine())
    rank = 0 if world is None else world.rank
    beside = [r for r, machine in enumerate(here) if machine == here[rank]]  # the processes of this machine
    at, share = beside.index(rank), len(beside)
    mine = list(indices[at * len(indices) // share : (at + 1) * len(indices) // share])
    handle = _Handle()
    problems: dict[int, str] = {}
    pixels = rows = 0
    try:
        threads = max(1, (os.cpu_count() or 1) // share)
        pixels, rows = _fill(handle.fd, decode, mine, budget / share, problems, threads, expect, progress)
        why = ""
    except (OSError, MemoryError) as error:
        why = f"there is not enough memory: {error}"
    except _TooMuch:
        why = "they would take more than images.memory or half of this machine's memory"
    word = (f"/proc/{os.getpid()}/fd/{handle.fd}", pixels, rows, problems, why)
    words = [word] if world is None else [w for r, w in enumerate(world.gather(word)) if r in beside]
    why = next((w[4] for w in words if w[4]), "")
    kept = None
    if not why:
        try:
            files = [(path, pixels, rows) for path, pixels, rows, _, _ in words]
            kept = MemoryCache(n, bits, files, {i: reason for word in words for i, reason in word[3].items()})
            kept.handle = handle
        except (OSError, MemoryError, ValueError) as error:
            why = f"processes of this machine cannot share memory: {error}"
    if world is not None:  # and nobody lets go of his file before all have opened it
        said = world.gather(why)
        why = next((said[r] for r in beside if said[r]), "")
    return (None, why) if why else (kept, "")


class _TooMuch(Exception):
    pass


class _Handle:
    """A file in memory, without a name, of this process and those that open it."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("maskery-images", os.MFD_CLOEXEC)
        else:  # not Linux: a file on the disk, which nobody else finds
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        os.close(self.fd)


def _fill(
    fd: int,
    decode: Callable[[int], Picture],
    indices: list[int],
    budget: float,
    problems: dict[int, str],
    threads: int,
    expect: Callable[[np.ndarray], None] | None,
    progress: Progress | None,
) -> tuple[int, int]:
    """Write pictures and behind them their table: (bytes of pixels, rows). Raises `_TooMuch`, OSError."""

    def attempt(i: int) -> Picture | str:
        try:
            return decode(i)
        except Unreadable as error:
            return str(error)

    if budget <= 0:
        raise _TooMuch
    table, end = np.zeros(len(indices), _ROW), 0
    with ThreadPoolExecutor(threads) as pool:  # decoders release the interpreter lock
        for start in range(0, len(indices), 256):
            part = indices[start : start + 256]
            if expect:
                expect(np.array(part))
            for k, (i, found) in enumerate(zip(part, pool.map(attempt, part), strict=True), start):
                table[k]["image"] = i
                if isinstance(found, str):
                    problems[i] = found
                    continue
                array = np.ascontiguousarray(found.array)
                table[k] = (i, end, array.shape, (found.height, found.width), found.extent)
                end = _write(fd, array, end)
                if end > budget:
                    raise _TooMuch
            if end / (start + len(part)) * len(indices) > 1.5 * budget:
                raise _TooMuch
            if progress:
                progress(start + len(part), len(indices))
    pixels = -(-end // 64) * 64
    os.ftruncate(fd, _write(fd, table, pixels) or 1)
    return pixels, len(indices)


def _write(fd: int, array: np.ndarray, at: int) -> int:
    """Where the array ends that is written at byte `at`."""
    data = memoryview(array.reshape(-1).view(np.uint8).data)
    while len(data):
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
    return at


def _mapped(path: str, pixels: int, rows: int) -> tuple[mmap.mmap, np.ndarray]:
    with open(path, "rb") as file:
        # Private and writable: torch warns of arrays that cannot be written, and nobody can spoil what others see.
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return memory, np.frombuffer(memory, _ROW, rows, pixels)


def _machine() -> str:
    """The same in all processes of one running machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()

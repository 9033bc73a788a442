"""A folder and all below it -> the names of its images. One `scandir` per folder, no `stat` per file, cached."""

import contextlib
import hashlib
import heapq
import json
import os
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...terminal import Tick, no_progress
from ...text import to_text
from .names import StringArray, hashes
from .source import TABLES

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_IMAGES = frozenset(e[1:].encode() for e in IMAGES)
_TABLES = frozenset(e[1:].encode() for e in TABLES)
_VERSION = 2  # of the cache file
_RACE = 2_000_000_000  # ns; file systems stamp times coarsely: a folder changed this lately may change unseen


@dataclass(frozen=True)
class Scan:
    """What lies below a folder. Paths are relative to it, bytes, with "/"."""

    names: StringArray  # images, sorted by their bytes
    folders: tuple[bytes, ...]  # that hold images, b"" is the root
    folder: np.ndarray  # int32 [n], each image's position in `folders`
    tables: tuple[bytes, ...]
    others: dict[str, int]  # files that are no images, by extension
    problems: tuple[str, ...]  # folders that could not be listed


def scan(root: str, *, cache: bool = True, progress: Tick = no_progress) -> Scan:
    """All images below `root`, an absolute path. Symlinked folders are followed once; hidden ones are left out.

    With `cache` an unchanged folder is not listed again. `progress` hears the number of images, total unknown (0).
    """
    file = _cache_file(root) if cache else None
    cached = _load(file, root) if file else None
    if cached is not None:
        return cached
    started = time.time_ns()
    walk = _Walk(os.fsencode(root), progress)
    files = walk.run()
    if file and not files.problems and max(walk.stamps.values(), default=0) < started - _RACE:
        _save(file, root, files, walk.stamps)
    return files


class _Walk:
    """A walk through a folder and all below it."""

    def __init__(self, root: bytes, progress: Tick):
        self.root, self.progress = root, progress
        self.paths: list[bytes] = []
        self.tables: list[bytes] = []
        self.others: Counter[bytes] = Counter()
        self.problems: list[str] = []
        self.stamps: dict[bytes, int] = {}  # folder -> its mtime, taken before it is listed
        self._seen: set[tuple[int, int]] = set()
        self._waiting: list[bytes] = [b""]
        self._links: list[bytes] = []
        self._reported = 0

    def run(self) -> Scan:
        while self._waiting or self._links:
            # Links last: a folder that is reached both ways keeps its own path.
            prefix = self._waiting.pop() if self._waiting else heapq.heappop(self._links)
            path = os.path.join(self.root, prefix)
            try:
                self._list(path, prefix)
            except OSError as error:
                self.problems.append(f"{to_text(path)}: {error.strerror}")
        self.progress(len(self.paths), 0)
        self.paths.sort()
        numbers: dict[bytes, int] = {}
        each = (numbers.setdefault(path.rpartition(b"/")[0], len(numbers)) for path in self.paths)
        folder = np.fromiter(each, np.int32, len(self.paths))
        others = {to_text(extension): n for extension, n in self.others.most_common()}
        tables = tuple(sorted(self.tables))
        return Scan(StringArray.of(self.paths), tuple(numbers), folder, tables, others, tuple(self.problems))

    def _list(self, path: bytes, prefix: bytes) -> None:
        """List one folder. Raises OSError."""
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b".") or name == b"__MACOSX":
                    continue
                extension = name.rpartition(b".")[2].lower() if b"." in name else b""
                is_link = entry.is_symlink()
                # A link with an image's extension is taken for a file: asking would cost a stat for each.
                if not (is_link and extension in _IMAGES) and entry.is_dir():
                    below = prefix + name + b"/"
                    heapq.heappush(self._links, below) if is_link else self._waiting.append(below)
                elif extension in _IMAGES:
                    self.paths.append(prefix + name)
                elif extension in _TABLES:
                    self.tables.append(prefix + name)
                else:
                    self.others[extension] += 1
                if len(self.paths) >= self._reported + 10_000:
                    self._reported = len(self.paths)
                    self.progress(self._reported, 0)
        self.stamps[prefix] = status.st_mtime_ns


def _cache_file(root: str) -> Path:
    home = os.environ.get("MASKERY_CACHE")
    if not home:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        home = os.path.join(base, "maskery")
    return Path(home) / f"scan-{hashlib.blake2b(os.fsencode(root), digest_size=12).hexdigest()}.npz"


def _load(file: Path, root: str) -> Scan | None:
    """The scan in `file`, None when there is none, it is damaged, or any folder's time of change is another."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            about = json.loads(saved["about"].tobytes())
            if about["version"] != _VERSION or about["root"] != root:
                return None
            for prefix, stamp in zip(_unpack(saved["stamped"]), saved["stamps"].tolist(), strict=True):
                if os.stat(os.path.join(os.fsencode(root), prefix)).st_mtime_ns != stamp:
                    return None
            names, folder = StringArray.from_arrays(saved), saved["folder"]
            if not len(names) == len(folder) == len(hashes(names)) or names.offsets[-1] != len(names.blob):
                return None
            return Scan(names, _unpack(saved["folders"]), folder, _unpack(saved["tables"]), about["others"], ())
    except (OSError, ValueError, KeyError, EOFError, IndexError, TypeError, zipfile.BadZipFile):
        return None


def _save(file: Path, root: str, files: Scan, stamps: dict[bytes, int]) -> None:
    """Write the cache as a whole or not at all; processes may do so at once. A folder without write access is fine."""
    about = json.dumps({"version": _VERSION, "root": root, "others": files.others}).encode()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix="scan-") as folder:
            partial = Path(folder, file.name)
            np.savez(
                partial,
                about=np.frombuffer(about, np.uint8),
                **files.names.arrays(),
                folder=files.folder,
                folders=_pack(files.folders),
                tables=_pack(files.tables),
                stamped=_pack(tuple(stamps)),
                stamps=np.array(list(stamps.values()), np.int64),
            )
            partial.replace(file)


def _pack(parts: tuple[bytes, ...]) -> np.ndarray:
    return np.frombuffer(b"".join(part + b"\0" for part in parts), np.uint8)  # no path holds a zero byte


def _unpack(packed: np.ndarray) -> tuple[bytes, ...]:
    return tuple(packed.tobytes().split(b"\0")[:-1])

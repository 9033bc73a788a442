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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .names import Names, hashes, text
from .source import TABLES

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_IMAGES = frozenset(e[1:].encode() for e in IMAGES)
_TABLES = frozenset(e[1:].encode() for e in TABLES)
_VERSION = 2  # of the cache file
_RACE = 2_000_000_000  # ns; file systems stamp times coarsely: a folder changed this lately may change unseen


@dataclass(frozen=True)
class Scan:
    """What lies below a folder. Paths are relative to it, bytes, with "/"."""

    names: Names  # images, sorted by their bytes
    folders: tuple[bytes, ...]  # that hold images, b"" is the root
    folder: np.ndarray  # int32 [n], each image's position in `folders`
    tables: tuple[bytes, ...]
    others: dict[str, int]  # files that are no images, by extension
    problems: tuple[str, ...]  # folders that could not be listed


def scan(root: str, *, cache: bool, progress: Callable[[int], None] | None = None) -> Scan:
    """All images below `root`, an absolute path. Symlinked folders are followed once; hidden ones are left out."""
    file = _cache_file(root) if cache else None
    known = _load(file, root) if file else None
    if known is not None:
        return known
    started = time.time_ns()
    found, stamps = _walk(os.fsencode(root), progress)
    if file and not found.problems and max(stamps.values(), default=0) < started - _RACE:
        _save(file, root, found, stamps)
    return found


def _walk(root: bytes, progress: Callable[[int], None] | None) -> tuple[Scan, dict[bytes, int]]:
    paths: list[bytes] = []
    tables: list[bytes] = []
    others: Counter[bytes] = Counter()
    problems: list[str] = []
    stamps: dict[bytes, int] = {}  # folder -> its mtime, taken before it is listed
    seen: set[tuple[int, int]] = set()
    waiting: list[bytes] = [b""]
    links: list[bytes] = []
    told = 0
    while waiting or links:
        # Links last: a folder that is reached both ways keeps its own path.
        prefix = waiting.pop() if waiting else heapq.heappop(links)
        path = os.path.join(root, prefix)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b".") or name == b"__MACOSX":
                        continue
                    kind = name.rpartition(b".")[2].lower() if b"." in name else b""
                    is_link = entry.is_symlink()
                    # A link with an image's extension is taken for a file: asking would cost a stat for each.
                    if not (is_link and kind in _IMAGES) and entry.is_dir():
                        below = prefix + name + b"/"
                        heapq.heappush(links, below) if is_link else waiting.append(below)
                    elif kind in _IMAGES:
                        paths.append(prefix + name)
                    elif kind in _TABLES:
                        tables.append(prefix + name)
                    else:
                        others[kind] += 1
                    if progress and len(paths) >= told + 10_000:
                        told = len(paths)
                        progress(told)
        except OSError as error:
            problems.append(f"{text(path)}: {error.strerror}")
            continue
        stamps[prefix] = status.st_mtime_ns
    if progress:
        progress(len(paths))
    paths.sort()
    numbers: dict[bytes, int] = {}
    folder = np.fromiter((numbers.setdefault(p.rpartition(b"/")[0], len(numbers)) for p in paths), np.int32, len(paths))
    counts = {text(kind): n for kind, n in others.most_common()}
    return Scan(Names.of(paths), tuple(numbers), folder, tuple(sorted(tables)), counts, tuple(problems)), stamps


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
            stamped = _unpack(saved["stamped"])
            for prefix, stamp in zip(stamped, saved["stamps"].tolist(), strict=True):
                if os.stat(os.path.join(os.fsencode(root), prefix)).st_mtime_ns != stamp:
                    return None
            names, folder = Names(saved["names"].tobytes(), saved["offsets"], saved["hashes"]), saved["folder"]
            if not len(names) == len(folder) == len(saved["hashes"]) or names.offsets[-1] != len(names.blob):
                return None
            return Scan(names, _unpack(saved["folders"]), folder, _unpack(saved["tables"]), about["others"], ())
    except (OSError, ValueError, KeyError, EOFError, IndexError, TypeError, zipfile.BadZipFile):
        return None


def _save(file: Path, root: str, found: Scan, stamps: dict[bytes, int]) -> None:
    """Whole or not at all; a place that cannot be written is no error."""
    about = json.dumps({"version": _VERSION, "root": root, "others": found.others}).encode()
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix="scan-", suffix=".tmp", delete=False) as out:
            temporary = out.name
            np.savez(
                out,
                about=np.frombuffer(about, np.uint8),
                names=np.frombuffer(found.names.blob, np.uint8),
                offsets=found.names.offsets,
                hashes=hashes(found.names),
                folder=found.folder,
                folders=_pack(found.folders),
                tables=_pack(found.tables),
                stamped=_pack(tuple(stamps)),
                stamps=np.array(list(stamps.values()), np.int64),
            )
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _pack(parts: tuple[bytes, ...]) -> np.ndarray:
    return np.frombuffer(b"".join(part + b"\0" for part in parts), np.uint8)  # no path holds a zero byte


def _unpack(packed: np.ndarray) -> tuple[bytes, ...]:
    return tuple(packed.tobytes().split(b"\0")[:-1])

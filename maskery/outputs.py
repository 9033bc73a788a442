"""Write files and directories as a whole: readers see the old one or the new one, never a part of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def partial_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to; renamed to `path` when the block ends, removed when it raises.

    An existing file is replaced. The directory of `path` is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".writing-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def partial_directory(path: Path) -> Iterator[Path]:
    """A new directory beside `path` to write into; renamed to `path` when the block ends, removed when it raises.

    An existing directory is replaced. What a killed process left behind is removed.
    """
    partial, old = path.with_name(f".writing-{path.name}"), path.with_name(f".writing-before-{path.name}")
    _remove(partial, old)
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except BaseException:
        _remove(partial)
        raise
    _remove(old)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file: on disk (fsync) before it takes its name."""
    with partial_path(path) as partial, partial.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _remove(*directories: Path) -> None:
    for path in directories:
        shutil.rmtree(path, ignore_errors=True)

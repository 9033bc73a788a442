"""Write files and directories as a whole: readers see the old one or the new one, never half of it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def partial_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` when the block ends, removed when it raises.

    An existing file is replaced. A directory must not exist, or be empty. Missing directories above `path` are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".writing-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write a small file: on disk (fsync) before it takes its name."""
    with partial_path(path) as partial, partial.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())

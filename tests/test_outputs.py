"""A file or directory is the old one or the new one, never a part of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from maskery.outputs import partial_directory, partial_path, write_file


def interrupt(output: AbstractContextManager[Path], write: Callable[[Path], object]) -> None:
    with output as partial:
        write(partial)
        raise KeyboardInterrupt


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    write_file(file, b"old")
    with partial_path(file) as partial:
        partial.write_bytes(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial_path(file), lambda partial: partial.write_bytes(b"newest"))
    assert file.read_bytes() == b"new"
    assert [p.name for p in file.parent.iterdir()] == ["file"]


def test_a_directory_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for name in ("a", "b"):
        with partial_directory(folder) as partial:
            (partial / name).touch()
    assert [p.name for p in folder.iterdir()] == ["b"]
    for stale in (".writing-folder", ".writing-before-folder"):  # as a killed process leaves them
        (folder.parent / stale).mkdir()
        (folder.parent / stale / "x").touch()
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial_directory(folder), lambda partial: (partial / "c").touch())
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]

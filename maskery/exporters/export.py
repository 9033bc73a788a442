"""A directory that is written whole or not at all: the files of one kind, checked, and a card that explains them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from . import hf_directory, hf_mae, onnx_file, plain_file, timm_directory
from .card import card
from .source import Exported, Source

Kind = Literal["timm", "hf", "hf-mae", "onnx", "safetensors"]
KINDS: dict[Kind, Callable[[Source, Path], Exported]] = {
    "timm": timm_directory.write,
    "hf": hf_directory.write,
    "hf-mae": hf_mae.write,
    "onnx": onnx_file.write,
    "safetensors": plain_file.write,
}
OURS = ("config.json", "model.onnx")  # one of them is in every directory that was exported


def export_to(kind: Kind, source: Source, out: Path, overwrite: bool = False) -> Exported:
    """Write `out`. ValueError, and no directory, when the other library does not compute what we do."""
    refuse(out, overwrite)
    with whole(out) as half:
        done = KINDS[kind](source, half)
        done = replace(done, load=done.load.format(out=python_text(out)))
        (half / "README.md").write_text(card(source, done), encoding="utf-8")
    return done


def refuse(out: Path, overwrite: bool) -> None:
    """ValueError when `out` holds something that is not to be replaced."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it")
    if not out.is_dir() or out.is_symlink():
        raise ValueError(f"{out}: is no directory and is not replaced")
    if any(out.iterdir()) and not any((out / name).exists() for name in OURS):
        raise ValueError(f"{out}: holds something else than an exported model and is not replaced")


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write into, which takes its name and place when nothing went wrong."""
    half = out.with_name(f".writing-{out.name}")
    shutil.rmtree(half, ignore_errors=True)
    try:
        half.mkdir(parents=True)
        yield half
        if out.exists():
            shutil.rmtree(out)
        half.rename(out)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def python_text(path: Path) -> str:
    """A path between the quotes of Python."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

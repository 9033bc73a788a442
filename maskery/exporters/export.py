"""Write a directory as a whole or not at all: the files of one format, checked, and a card that explains them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..outputs import partial_directory
from .card import card
from .hf_directory import write_hf
from .hf_mae import write_hf_mae
from .model import ExportModel, ExportResult
from .onnx_file import write_onnx
from .plain_file import write_safetensors
from .timm_directory import write_timm

Kind = Literal["timm", "hf", "hf-mae", "onnx", "safetensors"]
WRITERS: dict[Kind, Callable[[ExportModel, Path], ExportResult]] = {
    "timm": write_timm,
    "hf": write_hf,
    "hf-mae": write_hf_mae,
    "onnx": write_onnx,
    "safetensors": write_safetensors,
}
EXPORTED = ("config.json", "model.onnx")  # one of them is in every exported directory


def export_to(kind: Kind, model: ExportModel, out: Path, overwrite: bool = False) -> ExportResult:
    """Write `out`. ValueError, and no directory, when the other library does not compute what we do."""
    check_replaceable(out, overwrite)
    with partial_directory(out) as partial:
        result = WRITERS[kind](model, partial)
        result = replace(result, load=result.load.format(out=escaped(out)))
        (partial / "README.md").write_text(card(model, result), encoding="utf-8")
    return result


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Raise ValueError when `out` holds something that is not to be replaced."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it")
    if not out.is_dir() or out.is_symlink():
        raise ValueError(f"{out}: is no directory and is not replaced")
    if any(out.iterdir()) and not any((out / name).exists() for name in EXPORTED):
        raise ValueError(f"{out}: holds something else than an exported model and is not replaced")


def escaped(path: Path) -> str:
    """A path as it stands between double quotes in Python."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

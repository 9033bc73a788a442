"""Notebooks of docs/: their cells run in order, one namespace, as a kernel would run them; without outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    tree = json.loads(notebook.read_text(encoding="utf-8"))
    assert tree["nbformat"] == 4
    cells = [cell for cell in tree["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "clear its outputs"
    return ["".join(cell["source"]) for cell in cells]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for i, cell in enumerate(code_of(notebook)):
        assert not cell.lstrip().startswith(("%", "!")), "plain Python, which tests can run"
        exec(compile(cell, f"{notebook.name}, cell {i}", "exec"), names)
    if notebook.stem == "first-steps":
        assert names["features"].shape == (4, 128)
        assert names["one"].shape == (1, 17, 128)
        assert names["result"].looks[-1]["held_out_loss"] < names["result"].looks[0]["held_out_loss"]
        assert names["model"](torch.rand(1, 3, 32, 32)).shape == (1, 10)
        assert (tmp_path / "for-transformers" / "README.md").exists()
    assert len(NOTEBOOKS) >= 1

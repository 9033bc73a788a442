"""The house stays as it is meant to be."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import maskery
from maskery.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "maskery").rglob("*.py"))


def test_the_loop_names_no_method_and_no_task() -> None:
    words = set(re.findall(r"\w+", (ROOT / "maskery" / "train.py").read_text()))
    names = {name.replace("-", "_") for name in OBJECTIVES} | {o.__name__ for o in OBJECTIVES.values()}
    assert not words & names


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_in_one_go(file: Path) -> None:
    text = file.read_text()
    assert text.startswith('"""'), "a file begins by saying what it is"
    assert text.count("\n") <= 350
    assert file.stem not in ("utils", "common", "base", "helpers", "misc")


def test_most_files_are_short() -> None:
    lengths = sorted(file.read_text().count("\n") for file in FILES)
    assert lengths[len(lengths) // 2] <= 130


def test_methods_and_tasks_are_final() -> None:
    for objective in OBJECTIVES.values():
        assert not objective.__subclasses__()


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, maskery.cli; maskery.cli.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_no_verb_waits_for_libraries_that_it_may_not_need() -> None:
    verbs = ", ".join(f"maskery.{name}" for name in set(maskery.MODULES.values()))
    late = ("timm", "torchvision", "transformers", "sklearn", "matplotlib", "onnx", "wandb", "mlflow", "sympy")
    code = f"import sys, {verbs}; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", maskery.__all__)
def test_everything_is_where_it_is_said_to_be(name: str) -> None:
    module = f"maskery.{maskery.MODULES[name]}"
    assert vars(import_module(module))[name].__module__ == module
    assert callable(getattr(maskery, name))
    assert set(maskery.MODULES) == set(maskery.__all__)

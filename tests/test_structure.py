"""The house stays as it is meant to be: floors, sizes, names, and what may be imported when."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import maskery
from maskery.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "maskery").rglob("*.py"))

# From the top to the bottom: a module imports from its own floor and from those below. docs/architecture.md draws it.
FLOORS = (
    {"__main__", "cli", "commands"},
    {"exporters", "html_report", "inference"},
    {"train", "microbatch", "log", "trackers"},
    {"tasks", "health"},
    {"evals", "recipes", "suggest"},
    {"runs", "weights", "checkpoint", "sharding"},
    {"methods"},
    {"objective", "optim", "lars"},
    {"config", "data", "demo", "distributed", "html", "nn", "options", "outputs", "pictures", "schedule", "signals"},
    {"terminal", "text"},
)
TABLE = "objectives"  # it names all methods and tasks, and reading a run needs it: no floor of its own

LONG = {  # functions of more than 40 lines or 6 arguments, and why
    "train.train": "one function shows the run",
    "commands.pack.pack": "its arguments are the options of the verb",
}

# Test files that mirror no module: they test the package as people use it, or the project's other files.
WHOLE = {
    "commands/test_verbs.py",
    "html_report/test_browser.py",
    "test_benchmarks.py",
    "test_contract.py",
    "test_data_of_users.py",
    "test_docs.py",
    "test_gpu.py",
    "test_notebooks.py",
    "test_readme.py",
    "test_site.py",
    "test_structure.py",
}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): ast.parse(file.read_text()) for file in FILES}
PACKAGES = {module_of(file) for file in FILES if file.name == "__init__.py"}


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, within functions too, but not for type checking alone."""
    tree = MODULES[module]
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {id(n) for block in blocks for n in ast.walk(block)}
    package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
    targets = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        above = package[: len(package) - node.level + 1] if node.level else []
        target = ".".join([*above, *(node.module.split(".") if node.module else [])])
        if target.split(".")[0] == "maskery":
            names = {f"{target}.{alias.name}" for alias in node.names}
            targets |= {name if name in MODULES else target for name in names}
    return targets - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def circle_through(module: str) -> list[str] | None:
    """A way along imports from a module back to itself."""
    paths, visited = [[module]], set()
    while paths:
        path = paths.pop()
        for target in IMPORTS.get(path[-1], ()):
            if target == module:
                return [*path, module]
            if target not in visited:
                visited.add(target)
                paths.append([*path, target])
    return None


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{module.removeprefix('maskery.')}.{node.name}", node


def arguments(function: ast.FunctionDef) -> list[str]:
    every = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return every[1:] if every[:1] in (["self"], ["cls"]) else every


def test_no_import_goes_in_a_circle() -> None:
    circles = [circle for module in MODULES if (circle := circle_through(module))]
    assert not circles, " -> ".join(min(circles, key=len))


def test_imports_only_go_down() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    rooms = {module: module.split(".")[1] for module in MODULES if "." in module}
    assert set(rooms.values()) == {*floor, TABLE}
    upwards = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in targets
        if TABLE not in (rooms.get(module), rooms.get(target)) and module in rooms and target in rooms
        if floor[rooms[target]] < floor[rooms[module]]
    ]
    assert not upwards


def test_the_top_of_the_package_can_be_seen_at_a_glance() -> None:
    assert len(list((ROOT / "maskery").glob("*.py"))) <= 22


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_in_one_go(file: Path) -> None:
    text = file.read_text()
    assert text.startswith('"""'), "a file begins by saying what it is"
    assert text.count("\n") <= 350
    assert file.stem not in ("utils", "common", "base", "helpers", "misc")


def test_most_files_are_short() -> None:
    lengths = sorted(file.read_text().count("\n") for file in FILES)
    assert lengths[len(lengths) // 2] <= 130


def test_functions_have_at_most_40_lines_and_6_arguments() -> None:
    long = {
        name: f"{lines} lines, {len(arguments(node))} arguments"
        for name, node in functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > 40 or len(arguments(node)) > 6
    }
    assert {name: size for name, size in long.items() if name not in LONG} == {}
    assert set(LONG) == set(long), "an exception that is none any more"
    assert len(LONG) <= 10


def test_the_loop_is_at_most_220_lines() -> None:
    sizes = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert sizes["train.train"] <= 220


def test_classes_are_abstract_or_final() -> None:
    """A class of the package that another one inherits from says that it is abstract."""
    bases: dict[str, set[str]] = {}
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(ast.unparse(b).split(".")[-1] for b in node.bases)
    concrete = {name for name, its in bases.items() if not its & {"ABC", "Protocol", "Exception", "ValueError"}}
    assert {name: its & concrete for name, its in bases.items() if its & concrete} == {}


def test_no_module_is_called_by_a_bare_participle() -> None:
    irregular = {"asked", "drawn", "found", "given", "kept", "known", "left", "seen", "shown", "told"}
    nouns = {"distributed", "embed"}  # torch's name for it, and a verb
    names = {module.split(".")[-1] for module in MODULES} - nouns
    assert not {name for name in names if re.fullmatch(r"[a-z]+ed", name) or name in irregular}


def test_every_test_file_mirrors_a_module() -> None:
    tests = {f.relative_to(ROOT / "tests") for f in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {f.relative_to(ROOT / "maskery").with_name(f"test_{f.name}") for f in FILES}
    assert {str(f) for f in tests - mirrored} == WHOLE


def test_the_loop_names_no_method_and_no_task() -> None:
    words = set(re.findall(r"\w+", (ROOT / "maskery" / "train.py").read_text()))
    names = {name.replace("-", "_") for name in OBJECTIVES} | {o.__name__ for o in OBJECTIVES.values()}
    assert not words & names


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

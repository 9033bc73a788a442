"""Files of annotations in json: finding them, and reading lists in them."""

import glob
import json
import os
from collections.abc import Sequence
from typing import Any


def find_json(where: str, patterns: Sequence[str], given: str | None, split: str) -> str | None:
    """The given file, or the one that has a usual name. ValueError: it is missing, or there are several."""
    if given is not None:
        path = os.path.join(where, given)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: no such file (--images.{split}-json)")
        return path
    for pattern in patterns:
        files = sorted(glob.glob(os.path.join(glob.escape(where), pattern)))
        if len(files) > 1:
            names = ", ".join(os.path.relpath(file, where) for file in files)
            raise ValueError(f"{where}: {names}: which one? --images.{split}-json names it")
        if files:
            return files[0]
    return None


def read_json(path: str) -> Any:
    """Parse a file of json. ValueError in one line where it is damaged."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except json.JSONDecodeError as e:
        raise ValueError(f"{path}: damaged json in line {e.lineno}: {e.msg}") from None
    except (UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{path}: damaged json: {e}") from None


def list_of(path: str, tree: Any, part: str, kind: str) -> list[Any]:
    """A list in the tree of a file. ValueError where there is none, naming the `kind` of files that have it."""
    entries = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: it has no list {part!r}, as {kind} files have")
    return entries

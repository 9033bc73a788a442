"""What every refusal has in common: a line that names what is wrong, an exit code, and nothing written."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maskery.cli import FAILED, MISUSED, main


@dataclass(frozen=True)
class BadInput:
    """Something that is refused: data that `spoil` has changed, or options."""

    message: str  # a regular expression
    spoil: Callable[[Path], Any] = lambda root: None
    options: Sequence[str] = ()
    code: int = FAILED


def misused(message: str, *options: str) -> BadInput:
    return BadInput(message, options=options, code=MISUSED)


def assert_refused(
    command: Sequence[str], bad: BadInput, capsys: pytest.CaptureFixture[str], out: Path | None = None
) -> None:
    """`maskery COMMAND` with the bad options ends with a line that says so, and `out` is not made."""
    assert main([*command, *bad.options]) == bad.code
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(bad.message, error), error
    assert error.startswith("maskery: ")
    assert out is None or not out.exists()

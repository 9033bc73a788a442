"""One parser for every way in, so that types, unknown names and messages are the same everywhere.

The command line is a list of options; `config.yaml` and keyword arguments in Python become one.
"""

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


class UsageError(ValueError):
    """An option that does not exist or a value that does not fit: exit code 2."""


def parse(what: Callable[..., T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Call `what` (a dataclass or a function) with the values that `args` name; `default` gives the others.

    --help prints and exits. Raises `UsageError` in one line when options and `what` do not agree.
    """
    out, err = io.StringIO(), io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    filled: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            filled = tyro.cli(what, args=list(args), prog=prog, config=(tyro.conf.FlagConversionOff,), **given)
    except SystemExit as e:
        if e.code == 0:
            print(out.getvalue(), end="")
            raise
        raise UsageError(_one_line(err.getvalue())) from None
    return filled


def options(leaves: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A tree of values as options: {"optim": {"base_lr": 0.1}} -> ["--optim.base-lr=0.1"]."""
    args: list[str] = []
    for name, value in leaves.items():
        option = f"--{prefix}{str(name).replace('_', '-')}"
        if isinstance(value, Mapping):
            args += options(value, f"{option[2:]}.")
        elif isinstance(value, list | tuple):
            args += [option, *map(str, value)]
        else:
            args.append(f"{option}={value}")
    return args


def value_of(args: Sequence[str], option: str) -> str | None:
    """The last value of an option like "--method", before anything is parsed; None when it is not there."""
    found = None
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else args[i + 1] if i + 1 < len(args) else None
    return found


def _one_line(message: str) -> str:
    """The parser's framed message as one sentence, with the nearest option when the name was wrong."""
    lines = [line.strip(" |│") for line in message.splitlines()]
    lines = [line for line in lines if line]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("-─═")]
    body = lines[(rules[0] + 1 if rules else 1) : (rules[1] if len(rules) > 1 else len(lines))]
    text = " ".join(body).split(" Got errors:")[0].rstrip(" .")
    nearest = re.search(r"Perhaps you meant:.*?(--\S+)", " ".join(lines))
    return text + (f"; did you mean {nearest[1]}?" if nearest else "")

"""One parser for every way in, so that types, unknown names and messages are the same everywhere.

The command line is a list of options; `config.yaml` and keyword arguments in Python become one.
"""

import contextlib
import difflib
import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

T = TypeVar("T")


class UsageError(ValueError):
    """An option that does not exist or a value that does not fit: exit code 2."""


Hidden = Mapping[type, Sequence[str]]  # fields of a nested dataclass that are no options


def parse(
    what: Callable[..., T], args: Sequence[str], prog: str, default: T | None = None, hidden: Hidden | None = None
) -> T:
    """The dataclass `what` with the values that `args` name; `default` gives the others, and those of `hidden` fields.

    --help prints and exits. Raises `UsageError` in one line when options and `what` do not agree.
    """
    out, err = io.StringIO(), io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    filled: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            filled = tyro.cli(what, args=list(args), prog=prog, registry=_hiding(hidden or {}), **given)
    except SystemExit as e:
        if e.code == 0:
            print(out.getvalue(), end="")
            raise
        raise UsageError(_one_line(err.getvalue())) from None
    return filled


def call(function: Callable[..., T], args: Sequence[str], prog: str) -> T:
    """Call a function with the values that `args` name; raises `UsageError` as `parse` does, before the call."""

    @functools.wraps(function)
    def later(*values: Any, **named: Any) -> Callable[[], T]:  # the parser's output is caught, the function's is not
        return functools.partial(function, *values, **named)

    return parse(later, args, prog)()


def options(leaves: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A tree of values as options: {"optim": {"base_lr": 0.1}, "x": False} -> ["--optim.base-lr=0.1", "--no-x"]."""
    args: list[str] = []
    for name, value in leaves.items():
        option = f"--{prefix}{str(name).replace('_', '-')}"
        if is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Mapping):
            args += options(value, f"{option[2:]}.")
        elif isinstance(value, bool):
            args.append(option if value else f"--{prefix}no-{option[2 + len(prefix) :]}")
        elif isinstance(value, list | tuple):
            args += [option, *map(str, value)]
        else:
            args.append(f"{option}={value}")
    return args


def unknown(what: str, name: str, among: Iterable[str]) -> UsageError:
    """The error for a name that does not exist: with the nearest one, or all there are."""
    among = list(among)
    near = difflib.get_close_matches(name, among, 1)
    return UsageError(
        f"there is no {what} {name!r}; " + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(among)}")
    )


def value_of(args: Sequence[str], option: str) -> str | None:
    """The last value of an option like "--method", before anything is parsed; None when it is not there."""
    found = None
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else args[i + 1] if i + 1 < len(args) else None
    return found


def _hiding(hidden: Hidden) -> ConstructorRegistry:
    """Rules for the parser under which hidden fields are neither parsed nor in the help."""
    registry, building = ConstructorRegistry(), False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal building
        if building or info.type not in hidden:
            return None
        building = True  # the next line asks this rule too
        built = ConstructorRegistry.get_struct_spec(info)
        building = False
        assert isinstance(built, StructConstructorSpec)
        suppressed = (
            replace(f, type=Annotated[f.type, tyro.conf.Suppress]) if f.name in hidden[info.type] else f
            for f in built.fields
        )
        return replace(built, fields=tuple(suppressed))

    return registry


def _one_line(message: str) -> str:
    """The parser's framed message as one sentence, with the nearest option when the name was wrong."""
    lines = [line.strip(" |│") for line in message.splitlines()]
    lines = [line for line in lines if line]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("-─═")]
    body = lines[(rules[0] + 1 if rules else 1) : (rules[1] if len(rules) > 1 else len(lines))]
    text = " ".join(body).split(" Got errors:")[0].rstrip(" .")
    nearest = re.search(r"Perhaps you meant:.*?(--\S+)", " ".join(lines))
    return text + (f"; did you mean {nearest[1]}?" if nearest else "")

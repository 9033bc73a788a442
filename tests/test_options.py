"""One parser for command line, YAML and Python; messages of one line."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from maskery.options import UsageError, options, parse, value_of


@dataclass(frozen=True)
class Inner:
    base_lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class Outer:
    steps: int | None = None
    size: int | tuple[int, int] = 224
    kind: Literal["a", "b"] = "a"
    flag: bool = True
    mean: tuple[float, ...] | None = None
    optim: Inner = field(default_factory=Inner)


def test_a_tree_goes_in_and_comes_out() -> None:
    tree = {"steps": 3, "size": [4, 5], "flag": False, "mean": [0.5], "optim": {"base_lr": 1e-3, "betas": (0.8, 0.9)}}
    assert parse(Outer, options(tree), "x", Outer()) == Outer(3, (4, 5), "a", False, (0.5,), Inner(1e-3, (0.8, 0.9)))
    assert parse(Outer, options({"steps": None}), "x", Outer(steps=7)).steps is None
    part = Inner(1e-3, (0.8, 0.9))  # a part may be given as it is
    assert parse(Outer, options({"optim": part}), "x", Outer()).optim == part


def test_later_options_win() -> None:
    assert parse(Outer, [*options({"steps": 3}), "--steps", "5"], "x", Outer()).steps == 5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--optim.bas-lr", "1"], r"--optim.bas-lr.*did you mean --optim.base-lr\?"),
        (["--steps", "abc"], "--steps.*'abc'"),
        (["--kind", "c"], "'c'.*--kind.*'a', 'b'"),
        (["--flag", "maybe"], "maybe"),
        (["--size", "1", "2", "3"], "--size.*'1', '2', '3'"),
    ],
)
def test_what_does_not_fit_is_one_line(args: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as e:
        parse(Outer, args, "x", Outer())
    assert "\n" not in str(e.value)
    assert "│" not in str(e.value)


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        parse(Outer, ["--help"], "maskery pretrain", Outer())
    assert e.value.code == 0
    assert "--optim.base-lr" in capsys.readouterr().out


def test_a_value_before_parsing() -> None:
    assert value_of(["--method", "mae", "--x=1"], "--method") == "mae"
    assert value_of(["--batch_size=3"], "--batch-size") == "3"
    assert value_of(["--x=1"], "--method") is None

"""What `maskery compare` is asked for: contenders with their own options, seeds, a budget. Wrong ones are refused."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import Run
from ..methods import METHODS
from ..options import UsageError, parse, unknown, value_of
from .pretrain import Pretrain, filled, of_method

SECTIONS = ("settings", "images", "crop", "optim", "watch", "save", "log")  # what stands before a dot in options of all


@dataclass(frozen=True)
class Compare(Pretrain):
    """Train several methods on the same images with the same seeds and budget, one after another, and say which
    features are best. Every option of `maskery pretrain` is for all of them; --LABEL.option is a setting of one
    (--methods mae,naive=mixed-ae --naive.top-k 64). In values, {seed} stands for a run's seed and {out} for the
    comparison's directory. Called again with the same options, it goes on where it was interrupted."""

    out: str = ""  # directory of the comparison
    methods: str = ""  # METHOD or LABEL=METHOD, with commas between them: mae,rc-mae,free=rc-mae
    budget: str | None = None  # of every run: epochs:100, or equal training time: time:90s, time:20m, time:2h
    seeds: int = 3  # so many runs of every method: with --seed, the seed after it ...
    method: Annotated[str, tyro.conf.Suppress] = "mae"
    overwrite: bool = False  # remove the comparison that is in `out`


@dataclass(frozen=True)
class Budget:
    """What every run may take."""

    kind: Literal["epochs", "time"]
    amount: float  # passes over the training images, or seconds of training

    def of(self, run: Run, seconds_per_step: float) -> Run:
        """The run with this length. `seconds_per_step` is for time alone."""
        if self.kind == "epochs":
            return replace(run, epochs=self.amount, steps=None)
        return replace(run, epochs=None, steps=max(1, int(self.amount / seconds_per_step)))


@dataclass(frozen=True)
class Contender:
    label: str  # names its rows, its options and its directories
    method: str
    own: tuple[str, ...]  # its own options, as --settings.*


@dataclass(frozen=True)
class Plan:
    """A comparison as it was asked for."""

    out: Path
    overwrite: bool
    budget: Budget | None
    seeds: tuple[int, ...]
    contenders: tuple[Contender, ...]
    common: tuple[tuple[str, ...], ...]  # options of all runs, each with its values

    def directory(self, contender: Contender, seed: int) -> Path:
        return self.out / f"{contender.label}-seed{seed}"

    def placed(self, args: Sequence[str], seed: int) -> list[str]:
        """Options with {seed} and {out} filled in."""
        out = os.path.abspath(self.out)  # a run finds its teacher from wherever it is resumed
        return [arg.replace("{seed}", str(seed)).replace("{out}", out) for arg in args]

    def run(self, contender: Contender, seed: int, base: Run) -> Run:
        """The run of one contender and seed, checked as `pretrain` does; time budgets are not in it yet.

        What an option with {out} speaks of is not there before the comparison has made it: only its name is checked.
        """
        args = [*(arg for group in self.common for arg in group), *contender.own]
        later = any("{out}" in arg for arg in args)
        for arg in args if later else ():
            self._runs_before(arg, contender, seed)
        try:
            run, objective = filled(self.placed(args, seed), of_method(base, contender.method), build=not later)
        except UsageError as e:
            raise UsageError(f"{contender.label}: {_in_own_words(str(e), contender)}") from None
        except ValueError as e:
            raise ValueError(f"{contender.label}: {e}") from None
        if objective and run.batch_size % objective.micro_batch_multiple:
            raise ValueError(
                f"{contender.label}: a batch size of {run.batch_size}; {contender.method} needs a multiple of "
                f"{objective.micro_batch_multiple}"
            )
        run = replace(run, seed=seed)
        return self.budget.of(run, 1.0) if self.budget and self.budget.kind == "epochs" else run

    def _runs_before(self, arg: str, contender: Contender, seed: int) -> None:
        """UsageError when {out}/NAME is no run that is finished before this one begins."""
        here = (self.seeds.index(seed), self.contenders.index(contender))
        order = {(i, j): f"{c.label}-seed{s}" for i, s in enumerate(self.seeds) for j, c in enumerate(self.contenders)}
        earlier = [name for place, name in order.items() if place < here]
        for name in re.findall(r"\{out\}/([^/]+)", arg.replace("{seed}", str(seed))):
            if name not in earlier:
                raise UsageError(
                    f"{contender.label}: {arg}: {name} is not made before {contender.label}-seed{seed}; there "
                    + (f"are: {', '.join(earlier)}" if earlier else "is nothing before it")
                )


def understood(args: Sequence[str]) -> Plan:
    """What the options of `maskery compare` say, without a look at the data. --help prints and exits."""
    whose = _contenders(value_of(args, "--methods") or "")
    common: list[list[str]] = []
    own: dict[str, list[str]] = {label: [] for label in whose}
    for group in _grouped(args):
        head, dot, _ = group[0].partition("=")[0].removeprefix("--").partition(".")
        head = head.replace("_", "-")
        mine = next((label for label in whose if label.replace("_", "-") == head), None) if dot else None
        if mine:
            own[mine] += ["--settings." + group[0].partition(".")[2], *group[1:]]
        elif dot and head not in SECTIONS and group[0].startswith("--"):
            raise unknown("method or section of options", head, [*whose, *SECTIONS])
        else:
            common.append(group)
    flat = [arg for group in common if not group[0].startswith("--settings.") for arg in group]  # of each method's type
    asked = parse(Compare, flat, "maskery compare", Compare(settings=METHODS["mae"].Config()))
    if not whose:
        raise UsageError(f"--methods is missing: some of {', '.join(METHODS)}, with commas between them")
    if not asked.data and not asked.config:
        raise UsageError("--data is missing: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    if not asked.out:
        raise UsageError("--out is missing: the directory of the comparison")
    if asked.seeds < 1:
        raise UsageError(f"--seeds is {asked.seeds}: it has to be at least 1")
    budget = _budget(asked.budget) if asked.budget else None
    for name in ("epochs", "steps"):
        if budget and getattr(asked, name) is not None:
            raise UsageError(f"--budget {asked.budget} and --{name} {getattr(asked, name)}: give one of them")
    ours = {f"--{f.name}" for f in fields(Compare)} - {f"--{f.name}" for f in fields(Run)} - {"--recipe", "--config"}
    ours |= {"--no-overwrite", "--seed"}
    return Plan(
        Path(asked.out),
        asked.overwrite,
        budget,
        tuple(range(asked.seed, asked.seed + asked.seeds)),
        tuple(Contender(label, method, tuple(own[label])) for label, method in whose.items()),
        tuple(tuple(group) for group in common if group[0].partition("=")[0].replace("_", "-") not in ours),
    )


def _contenders(text: str) -> dict[str, str]:
    """ "mae,naive=mixed-ae" -> {"mae": "mae", "naive": "mixed-ae"}."""
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        label, equals, method = (x.strip() for x in part.partition("="))
        method = method if equals else label
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", label):
            raise UsageError(f"--methods: the label {label!r} has to be of letters, digits, - and _")
        if label in SECTIONS:
            raise UsageError(f"--methods: {label} cannot be a label: --{label}.* are options of all methods")
        same = [other for other in found if _folded(other) == _folded(label)]
        if same:
            also = "" if same[0] == label else f" (as {same[0]})"
            raise UsageError(f"--methods: {label} is there twice{also}; LABEL=METHOD gives one of them another name")
        found[label] = method
    return found


def _folded(label: str) -> str:
    """What options and file systems may not tell apart is the same."""
    return label.replace("_", "-").lower()


def _budget(text: str) -> Budget:
    """ "epochs:100", "time:90s", "time:20m", "time:2h"."""
    match = re.fullmatch(r"(epochs):(\d+\.?\d*)()|(time):(\d+\.?\d*)([smh])", text)
    found = [part for part in match.groups() if part] if match else []
    amount = float(found[1]) if found else 0.0
    if not amount:
        raise UsageError(f"--budget is {text!r}: epochs:100, time:90s, time:20m or time:2h is wanted, above 0")
    if found[0] == "epochs":
        return Budget("epochs", amount)
    return Budget("time", amount * {"s": 1, "m": 60, "h": 3600}[found[2]])


def _grouped(args: Sequence[str]) -> list[list[str]]:
    """An option and its values together."""
    groups: list[list[str]] = []
    for arg in args:
        if arg.startswith("--") or arg == "-h" or not groups:
            groups.append([arg])
        else:
            groups[-1].append(arg)
    return groups


def _in_own_words(message: str, contender: Contender) -> str:
    """--settings.x as it was written, --LABEL.x, when the trouble is with an option of this contender's own."""
    names = [arg.partition("=")[0] for arg in contender.own if arg.startswith("--settings.")]
    if any(name in message for name in names):
        return message.replace("--settings.", f"--{contender.label}.")
    return message

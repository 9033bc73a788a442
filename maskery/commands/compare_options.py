"""Options of `maskery compare`: methods with settings of their own, seeds, a budget, and the run of every cell."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ..config import Run
from ..data.dataset import SurveyedSource
from ..methods import METHODS
from ..options import UsageError, parse, unknown, value_of
from ..terminal import Quiet
from .pretrain import apply_args, base_run, parse_options, with_method

SECTIONS = ("settings", "images", "crop", "optim", "watch", "save", "log")  # before a dot in options of all methods


@dataclass(frozen=True)
class CompareOptions:
    """Train several methods on the same images with the same seeds and budget, one after another, and say which
    features are best. Every option of `maskery pretrain` is for all of them; --LABEL.option is a setting of one
    (--methods mae,naive=mixed-ae --naive.top-k 64). In values, {seed} stands for a run's seed and {out} for the
    comparison's directory. Called again with the same options, it goes on where it was interrupted."""

    run: Annotated[Run, tyro.conf.arg(name="")]
    out: str = ""  # directory of the comparison
    methods: str = ""  # METHOD or LABEL=METHOD, separated by commas: mae,rc-mae,free=rc-mae
    budget: str | None = None  # of every run: epochs:100, or equal training time: time:90s, time:20m, time:2h
    seeds: int = 3  # number of runs of every method: with --seed, the seed after it ...
    recipe: str | None = None  # a run with a name: `maskery list recipes`
    config: str | None = None  # a saved config.yaml
    overwrite: bool = False  # remove the comparison that is in `out`


OWN = ("--out", "--methods", "--budget", "--seed", "--seeds", "--overwrite", "--no-overwrite")  # no options of a run
# owners of options beside the labels, which have no hyphen first
COMPARISON, SETTINGS, RUNS = "--", "--settings.", "--*"
Runs = dict[tuple[str, int], Run]  # by label and seed


@dataclass(frozen=True)
class Budget:
    """How long every run is trained."""

    kind: Literal["epochs", "time"]
    amount: float  # passes over the training images, or seconds of training

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "epochs:100", "time:90s", "time:20m" or "time:2h"."""
        match = re.fullmatch(r"(epochs|time):(\d+\.?\d*)([smh]?)", text)
        kind, number, unit = match.groups() if match else ("", "0", "")
        amount = float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
        if not amount or (kind == "epochs") != (unit == ""):
            raise UsageError(f"--budget is {text!r}: epochs:100, time:90s, time:20m or time:2h is expected, above 0")
        return cls("epochs" if kind == "epochs" else "time", amount)

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}{'s' if self.kind == 'time' else ''}"

    def apply(self, run: Run, seconds_per_step: float = 1.0) -> Run:
        """Set the run's length; only a budget of time needs `seconds_per_step`."""
        if self.kind == "epochs":
            return replace(run, epochs=self.amount, steps=None)
        return replace(run, epochs=None, steps=max(1, int(self.amount / seconds_per_step)))


@dataclass(frozen=True)
class Variant:
    """A method with settings of its own."""

    label: str  # names its rows, options and directories
    method: str
    settings: tuple[str, ...] = ()  # as options, --settings.*


@dataclass(frozen=True)
class ComparisonPlan:
    out: Path
    overwrite: bool
    budget: Budget | None
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    common: tuple[str, ...]  # options of all runs, but for --settings.*
    settings: tuple[str, ...]  # --settings.* of all runs

    @property
    def is_timed(self) -> bool:
        return self.budget is not None and self.budget.kind == "time"

    def order(self) -> Iterator[tuple[Variant, int]]:
        """Iterate over the cells: all variants of a seed before the next one, so that they can be compared early."""
        return ((variant, seed) for seed in self.seeds for variant in self.variants)

    def runs(self, device: torch.device) -> tuple[Runs, Sequence[str], SurveyedSource | None]:
        """Build the run of every label and seed, with reasons for what the images decide, and the images if surveyed.

        A budget of time is not in them yet.
        """
        args = self.fill_in(self.common, self.seeds[0])
        base, surveyed = base_run(parse_options(args), args, device, Quiet())
        reasons = [reason for reason in base.reasons if not self.budget or " epochs: " not in reason]
        return {(v.label, seed): self._run(v, seed, base.run) for v, seed in self.order()}, reasons, surveyed

    def fill_in(self, args: Sequence[str], seed: int) -> list[str]:
        """Replace {seed} and {out} in options."""
        out = os.path.abspath(self.out)  # a run finds its teacher from wherever it is resumed
        return [arg.replace("{seed}", str(seed)).replace("{out}", out) for arg in args]

    def _run(self, variant: Variant, seed: int, base: Run) -> Run:
        """Build the run of one variant and seed, and check it as `maskery pretrain` does.

        Where an option has {out}, what it refers to may not exist yet: only its name is checked, nothing is built.
        """
        args = [*self.common, *self.settings, *variant.settings]
        references = [arg for arg in args if "{out}" in arg]
        for arg in references:
            self._check_reference(arg, variant, seed)
        base = with_method(base, variant.method)
        try:
            run, objective = apply_args(self.fill_in(args, seed), base, build=not references)
        except UsageError as e:
            raise UsageError(f"{variant.label}: {_with_label(str(e), variant)}") from None
        except ValueError as e:
            raise ValueError(f"{variant.label}: {e}") from None
        if objective and run.batch_size % objective.micro_batch_multiple:
            raise ValueError(
                f"{variant.label}: a batch size of {run.batch_size}; {variant.method} needs a multiple of "
                f"{objective.micro_batch_multiple}"
            )
        run = replace(run, seed=seed)
        return self.budget.apply(run) if self.budget and not self.is_timed else run

    def _check_reference(self, arg: str, variant: Variant, seed: int) -> None:
        """UsageError unless {out}/NAME is a run that is finished before this one begins."""
        names = [f"{v.label}-seed{s}" for v, s in self.order()]
        own = f"{variant.label}-seed{seed}"
        earlier = names[: names.index(own)]
        for name in re.findall(r"\{out\}/([^/]+)", arg.replace("{seed}", str(seed))):
            if name not in earlier:
                existing = f"runs before it: {', '.join(earlier)}" if earlier else "it is the first run"
                raise UsageError(f"{variant.label}: {arg}: {name} is not made before {own}; {existing}")


def parse_plan(args: Sequence[str]) -> ComparisonPlan:
    """Parse the options of `maskery compare`, without reading any data. --help prints and exits."""
    methods = _parse_methods(value_of(args, "--methods") or "")
    split, hidden = _split(args, methods), {Run: ("method",)}
    default = CompareOptions(Run(settings=METHODS["mae"].Config()))
    options = parse(CompareOptions, [*split[COMPARISON], *split[RUNS]], "maskery compare", default, hidden)
    budget, run = Budget.parse(options.budget) if options.budget else None, options.run
    if not methods:
        raise UsageError(f"--methods is missing: some of {', '.join(METHODS)}, separated by commas")
    if not run.data and not options.config:
        raise UsageError("--data is missing: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    if not options.out:
        raise UsageError("--out is missing: the directory of the comparison")
    if options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}: it has to be at least 1")
    for name in ("epochs", "steps"):
        if budget and getattr(run, name) is not None:
            raise UsageError(f"--budget {options.budget} and --{name} {getattr(run, name)}: give one of them")
    return ComparisonPlan(
        Path(options.out),
        options.overwrite,
        budget,
        tuple(range(run.seed, run.seed + options.seeds)),
        tuple(Variant(label, method, tuple(split[label])) for label, method in methods.items()),
        tuple(split[RUNS]),
        tuple(split[SETTINGS]),
    )


def _parse_methods(text: str) -> dict[str, str]:
    """Read "mae,naive=mixed-ae" as {"mae": "mae", "naive": "mixed-ae"}."""
    methods: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        label, equals, method = (x.strip() for x in part.partition("="))
        method = method if equals else label
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", label):
            raise UsageError(f"--methods: the label {label!r} has to consist of letters, digits, - and _")
        if label in SECTIONS:
            raise UsageError(f"--methods: {label} cannot be a label: --{label}.* are options of all methods")
        # what options or file systems may not tell apart
        folded = {other.replace("_", "-").lower(): other for other in methods}
        if same := folded.get(label.replace("_", "-").lower()):
            also = "" if same == label else f" (as {same})"
            raise UsageError(f"--methods: {label} is named twice{also}; LABEL=METHOD gives one of them another name")
        methods[label] = method
    return methods


def _split(args: Sequence[str], labels: Iterable[str]) -> dict[str, list[str]]:
    """Split options, with their values, into those of each label (as --settings.*), COMPARISON, SETTINGS and RUNS."""
    by_section = {label.replace("_", "-"): label for label in labels}
    split: dict[str, list[str]] = {owner: [] for owner in (*by_section.values(), COMPARISON, SETTINGS, RUNS)}
    owner = RUNS
    for arg in args:
        if arg.startswith("--") or arg == "-h":
            name = arg.partition("=")[0].replace("_", "-")
            section, dot, _ = name.removeprefix("--").partition(".")
            if dot and section in by_section:
                owner, arg = by_section[section], "--settings." + arg.partition(".")[2]
            elif dot and section not in SECTIONS:
                raise unknown("method or section of options", section, [*by_section.values(), *SECTIONS])
            else:
                owner = COMPARISON if name in OWN else SETTINGS if name.startswith(SETTINGS) else RUNS
        split[owner].append(arg)
    return split


def _with_label(message: str, variant: Variant) -> str:
    """Name --settings.x as it was written, --LABEL.x, in an error about an option of this variant alone."""
    names = [arg.partition("=")[0] for arg in variant.settings if arg.startswith("--settings.")]
    own = any(name in message for name in names)
    return message.replace("--settings.", f"--{variant.label}.") if own else message

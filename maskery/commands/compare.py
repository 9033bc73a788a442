"""`maskery compare`: several methods on the same images, seeds and budget, one run after another, and one table.

The numbers of every run are in its own evals/compare.json, written once; compare.json, compare.png and compare.html of
the comparison are put together from these.
"""

import contextlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Run, leaves
from ..data.dataset import load_data, survey_source
from ..data.sources.names import absolute
from ..distributed import World, world
from ..evals import leaderboard
from ..evals.encoder_metrics import ProbeImages, encoder_metrics, seconds_per_step, training_curve
from ..evals.eval_pass import InferenceOptions
from ..html_report import compare_page
from ..log import environment
from ..methods import METHODS
from ..nn.vit import ViT
from ..options import UsageError, options
from ..outputs import write_file
from ..signals import interruptible
from ..terminal import Quiet, Terminal
from ..text import duration
from ..train import Diverged, resolve
from ..weights import load
from ..weights.teacher import build_objective
from .compare_options import ComparisonPlan, Variant, parse_plan
from .study import Cell, complete

FILE, PAGE, PICTURE, TIMING = "compare.json", "compare.html", "compare.png", ".timing"
TIMED_STEPS = 30  # of the short run that measures the seconds per step, for budgets of time
Facts = dict[str, Any]


@dataclass(frozen=True)
class MethodStudyResult:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    table: tuple[Facts, ...]  # a row a method, as in compare.json
    reading: tuple[str, ...]  # what the numbers say


def compare(args: Sequence[str] = (), **settings: Any) -> MethodStudyResult:
    """`maskery compare`: options as a list, or in Python `compare(data=..., out=..., methods=["mae", "rc-mae"])`."""
    if "methods" in settings and not isinstance(settings["methods"], str):
        settings["methods"] = ",".join(settings["methods"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("maskery compare runs in one process: start it without torchrun")
    plan = parse_plan([*args, *options(settings)])
    with world() as here, interruptible() as raise_if_signalled:
        study = MethodStudy(plan, here)
        finished = complete(study.unfinished(), study.train_and_measure, raise_if_signalled)
        facts = study.facts
        facts["finished"] = finished
        study.write()
    if finished:
        table = leaderboard.lines(facts["start"], facts["table"])
        print("\n".join(["", *table, "", facts["protocol"], "", *facts["reading"]]))
        if not (plan.out / PICTURE).exists():
            print(facts["picture"])
        print(f"page     {plan.out / PAGE}\nnumbers  {plan.out / FILE}")
    else:
        Terminal().say(f"stopped by a signal; the same command goes on with {plan.out}")
    return MethodStudyResult(plan.out, not finished, tuple(facts["table"]), tuple(facts["reading"]))


class MethodStudy:
    """The runs of a comparison and its record; `write` brings the files in its directory up to date."""

    def __init__(self, plan: ComparisonPlan, here: World):
        """Check everything, then begin the comparison in its directory or go on with it."""
        earlier = read_record(plan.out)
        self.plan, self.world, self.terminal = plan, here, Terminal()
        self.runs, reasons, surveyed = plan.runs(here.device)
        self.first = next(iter(self.runs.values()))
        # the images of the first run, and those that encoders are measured on, or why none
        self.surveyed = surveyed or survey_source(self.first.data, self.first.images, Quiet())
        self.data = load_data(self.surveyed, replace(self.first.images, memory=0.0), self.first.size, Quiet())
        self.images = ProbeImages.of(self.data)
        self.facts = self._facts()
        self.runs_in_picture = -1
        if earlier and plan.overwrite:
            remove_comparison(plan.out, earlier)
        elif earlier:
            self._continue_from(earlier)
        self.write()
        for note in reasons:
            self.terminal.say(note)
        if isinstance(self.images, str):
            self.terminal.say(f"the methods will not be ranked: {self.images}")

    def unfinished(self) -> Iterator[Cell]:
        """Yield the runs that have no numbers yet; measure what a seed's runs start from before the first of them."""
        for number, (variant, seed) in enumerate(self.plan.order(), 1):
            if variant == self.plan.variants[0]:
                self._measure_start(seed)
            if seed in self.results()[variant.label]:
                continue
            run = self.runs[variant.label, seed]
            if self.plan.is_timed:
                run = self._fit_time_budget(variant, run)
            left = self._seconds_left()
            note = f"run {number} of {len(self.runs)}: {variant.label}, seed {seed}"
            note += f", about {duration(left)} left" if left else ""
            yield Cell(variant.label, run, self.plan.out / f"{variant.label}-seed{seed}", note)

    def train_and_measure(self, cell: Cell) -> None:
        """Train a run or resume it, measure its encoder, write its evals/compare.json."""
        began = time.monotonic()
        numbers: Facts = {}
        try:
            self._train(cell)
            numbers = self._measure(load.load_encoder(cell.directory).to(self.world.device))
        except Diverged as e:
            numbers["diverged"] = str(e)
            self.terminal.say(f"{cell.label}, seed {cell.run.seed}: {e}; the comparison goes on without this run")
        costs = training_curve(cell.directory, cell.run.batch_size)
        facts = {
            "label": cell.label,
            "seed": cell.run.seed,
            "directory": cell.directory.name,
            **numbers,
            "epochs": costs["steps"] * cell.run.batch_size / len(self.data.train),
            **costs,
            "seconds": max(time.monotonic() - began, costs["training_seconds"]),  # with all measuring
            "command": sys.argv,
        }
        write_file(cell.file(FILE), json.dumps(facts, indent=1).encode())
        self.write()

    def _train(self, cell: Cell) -> None:
        shared = (cell.run.data, cell.run.images) == (self.first.data, self.first.images)  # unless {seed} is in them
        cell.train(self.world, self.surveyed if shared else None)

    def _measure_start(self, seed: int) -> None:
        """Measure the encoder that the runs of a seed start from, as `train` has it before the first step."""
        facts = self.facts
        if str(seed) in facts["starts"] or isinstance(self.images, str):
            return
        self.terminal.say(f"{facts['start']}, seed {seed}")
        run = resolve(self.runs[self.plan.variants[0].label, seed], self.data, self.world.device)
        torch.manual_seed(run.seed)
        objective = build_objective(METHODS[run.method], run.settings, run.vit())
        if run.init:
            load.start_from(objective, Path(run.init))
        facts["starts"][str(seed)] = self._measure(objective.encoder.to(self.world.device))
        self.write()

    def _measure(self, encoder: ViT) -> dict[str, float]:
        if isinstance(self.images, str):
            return {}
        with self.terminal.bar("features") as tick:
            options = InferenceOptions(workers=self.data.workers(), progress=tick)
            return encoder_metrics(encoder, self.data, self.images, options)

    def _fit_time_budget(self, variant: Variant, run: Run) -> Run:
        """Set the number of steps that take the budgeted time, by the variant's seconds per step."""
        budget, per_step = self.plan.budget, self.facts["seconds_per_step"]
        assert budget
        if variant.label not in per_step:
            per_step[variant.label] = self._time_steps(variant, run)
            self.write()
        run = budget.apply(run, per_step[variant.label])
        self.terminal.say(
            f"{variant.label}: {1000 * per_step[variant.label]:.1f} ms a step in a short run of {TIMED_STEPS}, so "
            f"{budget.amount:g} s are {run.steps:,} steps"
        )
        return run

    def _time_steps(self, variant: Variant, run: Run) -> float:
        """Measure the seconds per step in a short run."""
        short = replace(
            run,
            epochs=None,
            steps=TIMED_STEPS,
            watch=replace(run.watch, looks=0, log_every=TIMED_STEPS // 3),
            save=replace(run.save, every=None, minutes=1e9),
            optim=replace(run.optim, base_lr=0.0),  # the same work, and a warm-up of one step cannot let it diverge
        )
        scratch, note = self.plan.out / TIMING, f"{variant.label}: {TIMED_STEPS} steps to find their time"
        shutil.rmtree(scratch, ignore_errors=True)
        self._train(Cell(variant.label, short, scratch, note))
        seconds = seconds_per_step(scratch, run.batch_size)
        shutil.rmtree(scratch)
        return seconds

    def _continue_from(self, earlier: Facts) -> None:
        """Take over the measurements of an earlier call. ValueError when it was called with other options."""
        before, now = _identity(earlier), _identity(json.loads(json.dumps(self.facts)))
        for name in dict.fromkeys([*now, *before]):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{self.plan.out}: holds a comparison with {name} {before.get(name)}, not {now.get(name)}; give "
                    "the same options to go on with it, another --out, or --overwrite"
                )
        self.facts |= {name: earlier[name] for name in ("starts", "seconds_per_step")}

    def results(self) -> dict[str, dict[int, Facts]]:
        """Read the numbers of the finished runs by label and seed."""
        by_label: dict[str, dict[int, Facts]] = {variant.label: {} for variant in self.plan.variants}
        for variant, seed in self.plan.order():
            file = self.plan.out / f"{variant.label}-seed{seed}" / "evals" / FILE
            with contextlib.suppress(OSError, ValueError):  # not finished
                by_label[variant.label][seed] = json.loads(file.read_text())
        return by_label

    def _seconds_left(self) -> float | None:
        """Estimate how long the unfinished runs will take; None before anything is known."""
        seconds = {label: [run["seconds"] for run in runs.values()] for label, runs in self.results().items()}
        means = {label: statistics.fmean(values) for label, values in seconds.items() if values}
        budget = self.plan.budget
        usual = budget.amount if budget and self.plan.is_timed else statistics.fmean(means.values()) if means else None
        if usual is None:
            return None
        return sum((len(self.plan.seeds) - len(values)) * means.get(label, usual) for label, values in seconds.items())

    def write(self) -> None:
        """Write compare.json, compare.png and compare.html as far as the comparison is."""
        facts, plan, results = self.facts, self.plan, self.results()
        facts["runs"] = [results[v.label][seed] for v, seed in plan.order() if seed in results[v.label]]
        ranked = {facts["start"]: {int(seed): numbers for seed, numbers in facts["starts"].items()}} | {
            label: {seed: run for seed, run in runs.items() if "diverged" not in run} for label, runs in results.items()
        }
        facts["table"] = leaderboard.table(facts["start"], ranked)
        facts["reading"] = leaderboard.reading(facts["start"], ranked) or [
            f"The methods cannot be ranked, because {self.images}: their losses measure different things. "
            "Training times are here, and pictures are in each run's samples/."
            if isinstance(self.images, str)
            else "No run has been measured yet."
        ]
        diverged = [run for run in facts["runs"] if "diverged" in run]
        facts["reading"] += [f"{run['label']}, seed {run['seed']}: {run['diverged']}" for run in diverged]
        if len(facts["runs"]) != self.runs_in_picture:
            self.runs_in_picture = len(facts["runs"])
            facts["picture"] = compare_page.write_picture(facts, plan.out / PICTURE) or (
                "Curves are means over seeds, bands one standard deviation; at most "
                f"{facts['run']['watch.knn_bank']:,} images vote on {facts['run']['watch.knn_queries']:,} there, so "
                "their ends may differ from the table."
            )
        write_file(plan.out / FILE, json.dumps(facts, indent=1).encode())
        write_file(plan.out / PAGE, compare_page.page(facts, plan.out).encode())

    def _facts(self) -> Facts:
        """Say what is compared, before anything is known about the runs."""
        plan, first, data, images = self.plan, self.first, self.data, self.images
        settings = {v.label: leaves(asdict(self.runs[v.label, plan.seeds[0]])["settings"]) for v in plan.variants}
        own = ("settings.", "method", "seed", "data", *(("epochs", "steps") if plan.is_timed else ()))
        protocol = f"not measured: {images}"
        if isinstance(images, ProbeImages):
            protocol = (
                f"{len(images.bank):,} training images, {len(images.queries):,} held-out ones, frozen features: "
                "weighted 20-NN, and a quick linear probe (its L2 chosen on a tenth of the training images); "
                "± is the standard deviation over seeds"
            )
        return {
            "command": sys.argv,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "finished": False,
            "data": absolute(first.data),
            "trained_on": f"{len(data.train)} images, digest {data.fingerprint()}",
            "images": len(data.train),
            "held_out": len(data.held_out),
            "budget": str(plan.budget) if plan.budget else None,
            "seeds": list(plan.seeds),
            "methods": [{"label": v.label, "method": v.method, "settings": settings[v.label]} for v in plan.variants],
            "run": {name: value for name, value in leaves(asdict(first)).items() if not name.startswith(own)},
            "start": f"start from {first.init}" if first.init else "random initialisation",
            "protocol": protocol,
            "unranked": images if isinstance(images, str) else None,
            "device": torch.cuda.get_device_name(self.world.device) if self.world.device.type == "cuda" else "CPU",
            "environment": environment(self.world),
            "starts": {},  # seed -> numbers before the first step
            "seconds_per_step": {},  # label -> measured in its short run, for budgets of time
        }


def read_record(out: Path) -> Facts | None:
    """Read the compare.json in `out`; None where there is nothing. ValueError for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / FILE).exists():
        raise ValueError(f"{out}: holds something else than a comparison; give another --out")
    try:
        facts = json.loads((out / FILE).read_text())
        _identity(facts)
        _ = facts["starts"], facts["seconds_per_step"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{out / FILE}: damaged ({e!r}); remove {out} to begin anew") from None
    return facts


def remove_comparison(out: Path, record: Facts) -> None:
    """Remove what a comparison has written to `out`, and nothing else."""
    for method in record["methods"]:
        for seed in record["seeds"]:
            run = out / f"{method['label']}-seed{seed}"
            if (run / "config.yaml").exists():
                shutil.rmtree(run)
    shutil.rmtree(out / TIMING, ignore_errors=True)
    for name in (FILE, PAGE, PICTURE):
        (out / name).unlink(missing_ok=True)


def _identity(facts: Facts) -> Facts:
    """List what two calls on one comparison have to agree on, under the names of the options."""
    methods = ",".join(f"{m['label']}={m['method']}" for m in facts["methods"])
    own = {f"{m['label']}.{name}": value for m in facts["methods"] for name, value in m["settings"].items()}
    first = {"methods": methods, "budget": facts["budget"], "seeds": facts["seeds"], "data": facts["data"]}
    last = {"training images": facts["trained_on"]}
    return {n.replace("_", "-"): v for n, v in (first | last | facts["run"] | own).items()}

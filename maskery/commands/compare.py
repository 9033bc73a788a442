"""`maskery compare`: several methods on the same images, seeds and budget, one run after another, and one table."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Run
from ..data.dataset import ImageData, SurveyedSource, load_data, survey_source
from ..distributed import World, world
from ..evals import leaderboard
from ..evals.encoder_metrics import ProbeImages, encoder_metrics, seconds_per_step, training_curve
from ..evals.eval_pass import InferenceOptions
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
from .compare_record import FILE, PAGE, PICTURE, TIMING, ComparisonRecord, Facts, read_record, remove_comparison
from .study import Cell, complete

TIMED_STEPS = 30  # of the short run that measures the seconds per step, for budgets of time


@dataclass(frozen=True)
class MethodStudyResult:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    table: tuple[Facts, ...]  # a row a method, as in compare.json
    reading: tuple[str, ...]  # what the numbers say


def compare(args: Sequence[str] = (), **leaves: Any) -> MethodStudyResult:
    """`maskery compare`: options as a list, or in Python `compare(data=..., out=..., methods=["mae", "rc-mae"])`."""
    if "methods" in leaves and not isinstance(leaves["methods"], str):
        leaves["methods"] = ",".join(leaves["methods"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("maskery compare runs in one process: start it without torchrun")
    plan = parse_plan([*args, *options(leaves)])
    with world() as here, interruptible() as raise_if_signalled:
        study = MethodStudy.prepare(plan, here)
        finished = complete(study.unfinished(), study.train_and_measure, raise_if_signalled)
        facts = study.record.facts
        facts["finished"] = finished
        study.record.write()
    if finished:
        print_summary(plan.out, facts)
    else:
        Terminal().say(f"stopped by a signal; the same command goes on with {plan.out}")
    return MethodStudyResult(plan.out, not finished, tuple(facts["table"]), tuple(facts["reading"]))


def print_summary(out: Path, facts: Facts) -> None:
    table = leaderboard.lines(facts["start"], facts["table"])
    print("\n".join(["", *table, "", facts["protocol"], "", *facts["reading"]]))
    if not (out / PICTURE).exists():
        print(facts["picture"])
    print(f"page     {out / PAGE}\nnumbers  {out / FILE}")


@dataclass(frozen=True)
class MethodStudy:
    """The runs of a comparison, and what they share."""

    plan: ComparisonPlan
    record: ComparisonRecord
    runs: dict[tuple[str, int], Run]  # by label and seed
    surveyed: SurveyedSource  # the images of the first run
    data: ImageData  # likewise, that encoders are measured on
    images: ProbeImages | str  # which of them, or why none
    world: World

    @classmethod
    def prepare(cls, plan: ComparisonPlan, here: World) -> "MethodStudy":
        """Check everything, then begin the comparison in its directory or go on with it."""
        earlier = read_record(plan.out)
        runs, base = plan.runs(here.device)
        first = runs[plan.variants[0].label, plan.seeds[0]]
        surveyed = base.surveyed or survey_source(first.data, first.images, Quiet())
        data = load_data(surveyed, replace(first.images, memory=0.0), first.size, Quiet())
        images = ProbeImages.of(data)
        record = ComparisonRecord(plan, runs, data, images, here)
        if earlier and plan.overwrite:
            remove_comparison(plan.out, earlier)
        elif earlier:
            record.continue_from(earlier)
        record.write()
        for note in (
            *base.reasons,
            *([f"the methods will not be ranked: {images}"] if isinstance(images, str) else []),
        ):
            Terminal().say(note)
        return cls(plan, record, runs, surveyed, data, images, here)

    def unfinished(self) -> Iterator[Cell]:
        """Yield the runs that have no numbers yet; measure what a seed's runs start from before the first of them."""
        for number, (variant, seed) in enumerate(self.plan.order(), 1):
            if variant == self.plan.variants[0]:
                self._measure_start(seed)
            if seed in self.record.results()[variant.label]:
                continue
            run = self.runs[variant.label, seed]
            if self.plan.is_timed:
                run = self._fit_time_budget(variant, run)
            left = self.record.seconds_left()
            note = f"run {number} of {len(self.runs)}: {variant.label}, seed {seed}"
            note += f", about {duration(left)} left" if left else ""
            yield Cell(variant.label, run, self.record.directory(variant.label, seed), note)

    def train_and_measure(self, cell: Cell) -> None:
        """Train a run or resume it, measure its encoder, write its evals/compare.json."""
        began = time.monotonic()
        numbers: Facts = {}
        try:
            self._train(cell)
            numbers = self._measure(load.load_encoder(cell.directory).to(self.world.device))
        except Diverged as e:
            numbers["diverged"] = str(e)
            Terminal().say(f"{cell.label}, seed {cell.run.seed}: {e}; the comparison goes on without this run")
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
        self.record.write()

    def _train(self, cell: Cell) -> None:
        first = next(iter(self.runs.values()))
        shared = (cell.run.data, cell.run.images) == (first.data, first.images)  # unless {seed} is in them
        cell.train(self.world, self.surveyed if shared else None)

    def _measure_start(self, seed: int) -> None:
        """Measure the encoder that the runs of a seed start from."""
        facts = self.record.facts
        if str(seed) in facts["starts"] or isinstance(self.images, str):
            return
        Terminal().say(f"{facts['start']}, seed {seed}")
        run = self.runs[self.plan.variants[0].label, seed]
        facts["starts"][str(seed)] = self._measure(initial_encoder(run, self.data, self.world))
        self.record.write()

    def _measure(self, encoder: ViT) -> dict[str, float]:
        if isinstance(self.images, str):
            return {}
        with Terminal().bar("features") as tick:
            options = InferenceOptions(workers=self.data.workers(), progress=tick)
            return encoder_metrics(encoder, self.data, self.images, options)

    def _fit_time_budget(self, variant: Variant, run: Run) -> Run:
        """Set the number of steps that take the budgeted time, by the variant's seconds per step."""
        budget, per_step = self.plan.budget, self.record.facts["seconds_per_step"]
        assert budget
        if variant.label not in per_step:
            per_step[variant.label] = self._time_steps(variant, run)
            self.record.write()
        run = budget.apply(run, per_step[variant.label])
        Terminal().say(
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


def initial_encoder(run: Run, data: ImageData, here: World) -> ViT:
    """Build the encoder as `train` has it before the first step."""
    run = resolve(run, data, here.device)
    torch.manual_seed(run.seed)
    objective = build_objective(METHODS[run.method], run.settings, run.vit())
    if run.init:
        load.start_from(objective, Path(run.init))
    return objective.encoder.to(here.device)

"""`maskery compare`: several methods on the same images, seeds and budget, one run after another, and one table.

Seed by seed, all methods of a seed before the next one, so that what is there after an interruption can be compared.
Every run is an ordinary run directory; what was measured of it is in its evals/compare.json.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Run
from ..data.dataset import ImageData, open_data
from ..distributed import World, world
from ..evals.encoder_metrics import Questions, course, seconds_per_step, standing
from ..evals.leaderboard import lines
from ..methods import METHODS
from ..nn.vit import ViT
from ..options import UsageError, options
from ..outputs import write_file
from ..resolve import resolved
from ..signals import interruptible
from ..terminal import Quiet, Terminal
from ..text import duration
from ..train import Diverged, train
from ..weights import load
from ..weights.teacher import build_objective
from .contenders import Contender, Plan, understood
from .pretrain import base_for
from .study import FILE, PAGE, SCRATCH, Facts, Ledger, held_in, remove

TIMED = 30  # steps of the short run that finds the seconds per step, for budgets of time


@dataclass(frozen=True)
class Compared:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    table: tuple[Facts, ...]  # a row a method, as in compare.json
    reading: tuple[str, ...]  # what the numbers say


def compare(args: Sequence[str] = (), **leaves: Any) -> Compared:
    """`maskery compare`: options as a list, or in Python `compare(data=..., out=..., methods=["mae", "rc-mae"])`."""
    if "methods" in leaves and not isinstance(leaves["methods"], str):
        leaves["methods"] = ",".join(leaves["methods"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("maskery compare runs in one process: start it without torchrun")
    plan = understood([*args, *options(leaves)])
    held, say = held_in(plan.out), Terminal().say
    with world() as here, interruptible() as raise_if_signalled:
        # ------------------------------------------------------------------------ check everything, then touch OUT
        common = [arg for group in plan.common for arg in group if not group[0].startswith("--settings.")]
        base, reasons = base_for(plan.placed(common, plan.seeds[0]), here.device)
        runs = {(c.label, seed): plan.run(c, seed, base) for seed in plan.seeds for c in plan.contenders}
        first = runs[plan.contenders[0].label, plan.seeds[0]]
        data = open_data(first.data, replace(first.images, memory=0.0), first.size, Quiet())  # to measure with
        asked = Questions.of(data)
        ledger = Ledger(plan, runs, data, asked, here)
        if held and plan.overwrite:
            remove(plan.out, held)
        elif held:
            ledger.go_on(held)
        plan.out.mkdir(parents=True, exist_ok=True)
        ledger.write()
        if plan.budget:  # it says how long, not the recipe
            reasons = [reason for reason in reasons if " epochs: " not in reason]
        for note in (*reasons, *([f"the methods will not be ranked: {asked}"] if isinstance(asked, str) else [])):
            say(note)

        # ------------------------------------------------------------------------ seed by seed, all methods
        facts, per_step, count = ledger.facts, ledger.facts["seconds_per_step"], 0
        try:
            for seed in plan.seeds:
                if str(seed) not in facts["starts"] and isinstance(asked, Questions):
                    say(f"{facts['start']}, seed {seed}")
                    encoder = untrained(runs[plan.contenders[0].label, seed], data, here)
                    facts["starts"][str(seed)] = measured(encoder, data, asked)
                    ledger.write()
                for contender in plan.contenders:
                    count += 1
                    if ledger.numbers(contender, seed):
                        continue
                    run = runs[contender.label, seed]
                    if plan.budget and plan.budget.kind == "time":
                        if contender.label not in per_step:
                            per_step[contender.label] = timed(plan, contender, run, here)
                            ledger.write()
                        run = plan.budget.of(run, per_step[contender.label])
                        say(
                            f"{contender.label}: {1000 * per_step[contender.label]:.1f} ms a step in a short run of "
                            f"{TIMED}, so {plan.budget.amount:g} s are {run.steps:,} steps"
                        )
                    left = ledger.left()
                    note = f"run {count} of {len(runs)}: {contender.label}, seed {seed}"
                    note += f", about {duration(left)} left" if left else ""
                    forget(here)
                    raise_if_signalled()
                    one(plan, contender, run, data, asked, here, note)
                    ledger.write()
        except KeyboardInterrupt:
            ledger.write()
            say(f"stopped by a signal; the same command goes on with {plan.out}")
            return Compared(plan.out, True, tuple(facts["table"]), tuple(facts["reading"]))
        facts["finished"] = True
        ledger.write()

    # ---------------------------------------------------------------------------- what it says
    print("\n".join(["", *lines(facts["start"], facts["table"]), "", facts["protocol"], "", *facts["reading"]]))
    if not (plan.out / "compare.png").exists():
        print(facts["picture"])
    print(f"page     {plan.out / PAGE}\nnumbers  {plan.out / FILE}")
    return Compared(plan.out, False, tuple(facts["table"]), tuple(facts["reading"]))


def one(
    plan: Plan, contender: Contender, run: Run, data: ImageData, asked: Questions | str, here: World, note: str
) -> None:
    """Train one run or go on with it, measure it, write its evals/compare.json. KeyboardInterrupt when stopped."""
    out, began = plan.directory(contender, run.seed), time.monotonic()
    numbers: Facts = {}
    try:
        if (out / "config.yaml").exists():
            notes = [note]
            known = load.run_of(out, notes.append)
            result = train(known, out, here, notes, resume=True)
        else:
            result = train(run, out, here, [note])
        if result.signalled:
            raise KeyboardInterrupt
        if isinstance(asked, Questions):
            numbers = measured(load.load_encoder(out).to(here.device), data, asked)
    except Diverged as e:
        numbers["diverged"] = str(e)
        Terminal().say(f"{contender.label}, seed {run.seed}: {e}; the comparison goes on without this run")
    took = course(out, run.batch_size)
    facts = {
        "label": contender.label,
        "seed": run.seed,
        "directory": out.name,
        **numbers,
        "epochs": took["steps"] * run.batch_size / len(data.train),
        **took,
        "seconds": max(time.monotonic() - began, took["training_seconds"]),  # looks and measuring as well
        "command": sys.argv,
    }
    (out / "evals").mkdir(exist_ok=True)
    write_file(out / "evals" / FILE, json.dumps(facts, indent=1).encode())


def timed(plan: Plan, contender: Contender, run: Run, here: World) -> float:
    """Seconds per step of this run, from a short one in a scratch directory."""
    scratch = plan.out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    watch, save = replace(run.watch, looks=0, log_every=TIMED // 3), replace(run.save, every=None, minutes=1e9)
    optim = replace(run.optim, base_lr=0.0)  # the same work, and a warm-up of a step cannot let it diverge
    forget(here)
    short = replace(run, epochs=None, steps=TIMED, watch=watch, save=save, optim=optim)
    if train(short, scratch, here, [f"{contender.label}: {TIMED} steps to find their time"]).signalled:
        raise KeyboardInterrupt
    found = seconds_per_step(scratch, run.batch_size)
    shutil.rmtree(scratch)
    return found


def untrained(run: Run, data: ImageData, here: World) -> ViT:
    """The encoder as the loop has it before the first step."""
    run = resolved(run, data, here.device)
    torch.manual_seed(run.seed)
    objective = build_objective(METHODS[run.method], run.settings, run.vit())
    if run.init:
        load.start_from(objective, Path(run.init))
    return objective.encoder.to(here.device)


def forget(here: World) -> None:
    """Leave nothing of earlier runs to the next: the compiler gives up on code it has compiled for many networks."""
    torch.compiler.reset()
    if here.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(here.device)


def measured(encoder: ViT, data: ImageData, asked: Questions) -> dict[str, float]:
    workers = data.workers()
    with Terminal().bar("features") as tick:
        return standing(encoder, data, asked, workers, tick)

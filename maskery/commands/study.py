"""compare.json and what is made of it: what a comparison is, how far it is, and whether a call goes on with it.

Every run's numbers are in its own evals/compare.json, written once; everything here is put together from these.
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config import Run
from ..data.dataset import ImageData
from ..data.sources.names import absolute
from ..distributed import World
from ..evals import leaderboard
from ..evals.encoder_metrics import Questions
from ..html_report import compare_page
from ..log import environment
from ..outputs import write_file
from .contenders import Budget, Contender, Plan

FILE, PAGE, PICTURE, SCRATCH = "compare.json", "compare.html", "compare.png", ".timing"
Runs = Mapping[tuple[str, int], Run]  # by label and seed
Facts = dict[str, Any]


class Ledger:
    """The state of one comparison; `write` brings the files in its directory up to date."""

    def __init__(self, plan: Plan, runs: Runs, data: ImageData, asked: Questions | str, here: World):
        first = runs[plan.contenders[0].label, plan.seeds[0]]
        leaves = {c.label: _leaves(asdict(runs[c.label, plan.seeds[0]])) for c in plan.contenders}
        own = ("settings.", "method", "seed", "data", *(("epochs", "steps") if _timed(plan.budget) else ()))
        shared = {name: v for name, v in leaves[plan.contenders[0].label].items() if not name.startswith(own)}
        if isinstance(asked, str):
            protocol = f"not measured: {asked}"
        else:
            protocol = (
                f"{len(asked.bank):,} training images, {len(asked.queries):,} held-out ones, frozen features: weighted "
                "20-NN, and a quick linear probe (its L2 chosen on a tenth of the training images); "
                "± is the standard deviation over seeds"
            )
        self.plan, self.drawn = plan, -1  # so many runs are in the picture
        self.facts: Facts = {
            "command": sys.argv,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "finished": False,
            "data": absolute(first.data),
            "trained_on": f"{len(data.train)} images, digest {data.fingerprint()}",
            "images": len(data.train),
            "held_out": len(data.held_out),
            "budget": _words(plan.budget),
            "seeds": list(plan.seeds),
            "methods": [
                {
                    "label": c.label,
                    "method": c.method,
                    "settings": {
                        n.removeprefix("settings."): v for n, v in leaves[c.label].items() if n.startswith("settings.")
                    },
                }
                for c in plan.contenders
            ],
            "run": shared,
            "start": f"start from {first.init}" if first.init else "random initialisation",
            "protocol": protocol,
            "unranked": asked if isinstance(asked, str) else None,
            "device": torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else "CPU",
            "environment": environment(here),
            "starts": {},  # seed -> numbers before the first step
            "seconds_per_step": {},  # label -> of its short run, for budgets of time
        }

    def go_on(self, held: Facts) -> None:
        """Take over what is known already. ValueError in one line when `held` is of another comparison."""
        old, new = _identity(held), _identity(json.loads(json.dumps(self.facts)))
        for name in [*new, *(n for n in old if n not in new)]:
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"{self.plan.out}: holds a comparison with {name} {old.get(name)}, not {new.get(name)}; give the "
                    "same options to go on with it, another --out, or --overwrite"
                )
        self.facts |= {name: held[name] for name in ("starts", "seconds_per_step")}

    def numbers(self, contender: Contender, seed: int) -> Facts | None:
        """What was measured of a finished run; None when there is nothing yet."""
        try:
            return json.loads((self.plan.directory(contender, seed) / "evals" / FILE).read_text())
        except (OSError, ValueError):
            return None

    def left(self) -> float | None:
        """About how many seconds the runs that are not finished will take; None when nobody knows yet."""
        took: dict[str, list[float]] = {c.label: [] for c in self.plan.contenders}
        waiting: list[str] = []
        for contender in self.plan.contenders:
            for seed in self.plan.seeds:
                run = self.numbers(contender, seed)
                took[contender.label].append(run["seconds"]) if run else waiting.append(contender.label)
        known = [statistics.fmean(times) for times in took.values() if times]
        budget = self.plan.budget.amount if self.plan.budget and _timed(self.plan.budget) else None
        usual = budget or (statistics.fmean(known) if known else None)
        if usual is None:
            return None
        return sum(statistics.fmean(took[label]) if took[label] else usual for label in waiting)

    def write(self) -> None:
        """compare.json, compare.png and compare.html as far as the comparison is."""
        facts, plan = self.facts, self.plan
        found = {c.label: {s: self.numbers(c, s) for s in plan.seeds} for c in plan.contenders}
        made = {label: {s: run for s, run in runs.items() if run} for label, runs in found.items()}
        facts["runs"] = [made[c.label][s] for s in plan.seeds for c in plan.contenders if s in made[c.label]]
        results = {facts["start"]: {int(s): numbers for s, numbers in facts["starts"].items()}} | {
            label: {s: run for s, run in runs.items() if "diverged" not in run} for label, runs in made.items()
        }
        facts["table"] = leaderboard.table(facts["start"], results)
        facts["reading"] = leaderboard.conclusions(facts["start"], results) or [_silence(facts)]
        lost = [run for run in facts["runs"] if "diverged" in run]
        facts["reading"] += [f"{run['label']}, seed {run['seed']}: {run['diverged']}" for run in lost]
        if len(facts["runs"]) != self.drawn:
            self.drawn = len(facts["runs"])
            facts["picture"] = compare_page.picture(facts, plan.out / PICTURE) or (
                "Curves are means over seeds, bands one standard deviation; at most "
                f"{facts['run']['watch.knn_bank']:,} images vote on {facts['run']['watch.knn_queries']:,} there, so "
                "their ends may differ from the table."
            )
        write_file(plan.out / FILE, json.dumps(facts, indent=1).encode())
        write_file(plan.out / PAGE, compare_page.page(facts, plan.out).encode())


def held_in(out: Path) -> Facts | None:
    """The compare.json that is in `out`; None where nothing is. ValueError for anything else."""
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


def remove(out: Path, held: Facts) -> None:
    """Take away what a comparison has made in `out`, and nothing else."""
    for method in held["methods"]:
        for seed in held["seeds"]:
            run = out / f"{method['label']}-seed{seed}"
            if (run / "config.yaml").exists():
                shutil.rmtree(run)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)
    for name in (FILE, PAGE, PICTURE):
        (out / name).unlink(missing_ok=True)


def _identity(facts: Facts) -> Facts:
    """What has to be the same for two calls to be of the same comparison, under the names that options have."""
    methods = ",".join(f"{m['label']}={m['method']}" for m in facts["methods"])
    own = {f"{m['label']}.{name}": value for m in facts["methods"] for name, value in m["settings"].items()}
    first = {"methods": methods, "budget": facts["budget"], "seeds": facts["seeds"], "data": facts["data"]}
    last = {"training images": facts["trained_on"]}
    return {n.replace("_", "-"): v for n, v in (first | last | facts["run"] | own).items()}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Facts:
    """{"optim": {"base_lr": 1}} -> {"optim.base_lr": 1}."""
    leaves: Facts = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves


def _timed(budget: Budget | None) -> bool:
    return budget is not None and budget.kind == "time"


def _words(budget: Budget | None) -> str | None:
    return budget and f"{budget.kind}:{budget.amount:g}{'s' if _timed(budget) else ''}"


def _silence(facts: Facts) -> str:
    if facts["unranked"]:
        return (
            f"The methods cannot be ranked, because {facts['unranked']}: their losses measure different things. There "
            "are training times, and pictures in each run's samples/."
        )
    return "No run has been measured yet."

"""compare.json, compare.png and compare.html of a comparison: what is compared, and how far it is.

The numbers of every run are in its own evals/compare.json, written once; the record is put together from these.
"""

import contextlib
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

from ..config import Run, leaves
from ..data.dataset import ImageData
from ..data.sources.names import absolute
from ..distributed import World
from ..evals import leaderboard
from ..evals.encoder_metrics import ProbeImages
from ..html_report import compare_page
from ..log import environment
from ..outputs import write_file
from .compare_options import ComparisonPlan

FILE, PAGE, PICTURE, TIMING = "compare.json", "compare.html", "compare.png", ".timing"
Runs = Mapping[tuple[str, int], Run]  # by label and seed
Facts = dict[str, Any]


class ComparisonRecord:
    """The state of one comparison; `write` brings the files in its directory up to date."""

    def __init__(self, plan: ComparisonPlan, runs: Runs, data: ImageData, images: ProbeImages | str, world: World):
        self.plan = plan
        self.facts = _facts(plan, runs, data, images, world)
        self.runs_in_picture = -1

    def directory(self, label: str, seed: int) -> Path:
        return self.plan.out / f"{label}-seed{seed}"

    def continue_from(self, earlier: Facts) -> None:
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
            file = self.directory(variant.label, seed) / "evals" / FILE
            with contextlib.suppress(OSError, ValueError):  # not finished
                by_label[variant.label][seed] = json.loads(file.read_text())
        return by_label

    def seconds_left(self) -> float | None:
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
        facts["reading"] = leaderboard.reading(facts["start"], ranked) or [_not_ranked(facts)]
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


def _facts(plan: ComparisonPlan, runs: Runs, data: ImageData, images: ProbeImages | str, world: World) -> Facts:
    """Say what is compared, before anything is known about the runs."""
    first = runs[plan.variants[0].label, plan.seeds[0]]
    settings = {v.label: leaves(asdict(runs[v.label, plan.seeds[0]])["settings"]) for v in plan.variants}
    own = ("settings.", "method", "seed", "data", *(("epochs", "steps") if plan.is_timed else ()))
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
        "protocol": _protocol(images),
        "unranked": images if isinstance(images, str) else None,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU",
        "environment": environment(world),
        "starts": {},  # seed -> numbers before the first step
        "seconds_per_step": {},  # label -> measured in its short run, for budgets of time
    }


def _protocol(images: ProbeImages | str) -> str:
    if isinstance(images, str):
        return f"not measured: {images}"
    return (
        f"{len(images.bank):,} training images, {len(images.queries):,} held-out ones, frozen features: weighted "
        "20-NN, and a quick linear probe (its L2 chosen on a tenth of the training images); "
        "± is the standard deviation over seeds"
    )


def _not_ranked(facts: Facts) -> str:
    if facts["unranked"]:
        return (
            f"The methods cannot be ranked, because {facts['unranked']}: their losses measure different things. "
            "Training times are here, and pictures are in each run's samples/."
        )
    return "No run has been measured yet."


def _identity(facts: Facts) -> Facts:
    """List what two calls on one comparison have to agree on, under the names of the options."""
    methods = ",".join(f"{m['label']}={m['method']}" for m in facts["methods"])
    own = {f"{m['label']}.{name}": value for m in facts["methods"] for name, value in m["settings"].items()}
    first = {"methods": methods, "budget": facts["budget"], "seeds": facts["seeds"], "data": facts["data"]}
    last = {"training images": facts["trained_on"]}
    return {n.replace("_", "-"): v for n, v in (first | last | facts["run"] | own).items()}

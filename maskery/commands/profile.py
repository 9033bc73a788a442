"""`maskery profile`: where the time of a step goes on this machine, with these images, and what to change.

The loop itself takes the steps, in a directory that is removed: first some that fill and empty every queue, then some
that nobody disturbs (what a run is like), then some where the device is waited for after every part (where time goes).
"""

import contextlib
import json as js
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import Run, SaveConfig, WatchConfig
from ..data.dataset import ImageData, open_data
from ..data.loader import train_batches
from ..data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from ..distributed import World, world
from ..log import environment, memory
from ..objectives import OBJECTIVES
from ..options import UsageError, options, parse
from ..outputs import write_file
from ..runs.directory import read_config
from ..terminal import Quiet, Terminal
from ..train import resolve, train
from ..weights.teacher import build_objective
from .profile_findings import findings, table
from .run_options import PretrainOptions, apply_options, base_run, parse_options

PARTS = ("data wait", "crop", "draw", "forward", "backward", "optimiser", "after_step")
PATIENCE = 30.0  # seconds that each of the three kinds of steps may take, once there are three of them


@dataclass(frozen=True)
class ProfileOptions:
    """Take some dozen steps of a run and say where their time goes. Options are those of `maskery pretrain`; nothing is
    kept of the run. Give a run instead of options to profile it as it was set up: `maskery profile RUN`."""

    pretrain: Annotated[PretrainOptions, tyro.conf.arg(name="")]
    run: str | None = None  # a run whose settings are taken; other options come on top
    timed: int = 20  # steps that are timed as they are, and again with a look at every part
    json: str | None = None  # write the numbers there


class Enough(Exception):
    """The loop has taken all the steps that were wanted."""


class Clock:
    """Hears from the loop when a part of a step is over; raises `Enough` when everything is known."""

    def __init__(self, device: torch.device, unlogged: int, timed: int):
        self.device, self.wanted = device, (unlogged, timed, timed)  # steps of each kind
        self.kind, self.steps, self.began, self.last = 0, 0, self.now(), 0.0
        self.seconds = [0.0, 0.0, 0.0]  # of a step of each kind
        self.parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)  # seconds of a step

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, part: str) -> None:
        if self.kind == 2:
            now = self.now()
            self.parts[part] += now - self.last
            self.last = now
        if part != PARTS[-1]:
            return
        self.steps += 1
        late = self.steps >= 3 and time.perf_counter() - self.began > PATIENCE
        if self.steps < self.wanted[self.kind] and not late:
            return
        now = self.now()
        self.seconds[self.kind] = (now - self.began) / self.steps
        if self.kind == 2:
            self.parts = {name: seconds / self.steps for name, seconds in self.parts.items()}
            raise Enough
        self.kind, self.steps, self.began, self.last = self.kind + 1, 0, now, now


def profile(args: Sequence[str] = (), **leaves: Any) -> dict[str, Any]:
    """`maskery profile`: options as a list, or in Python `profile(data=...)`, `profile(run=...)`. Returns the facts."""
    ours, theirs = _ours([*args, *options(leaves)])
    asked = parse(ProfileOptions, ours, "maskery profile", ProfileOptions(parse_options([])))
    if asked.timed < 1:
        raise UsageError(f"--timed is {asked.timed}: it has to be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("maskery profile runs in one process: start it without torchrun")
    if asked.run:
        config = Path(asked.run) / "config.yaml"
        if not config.is_file():
            raise ValueError(f"{asked.run}: there is no such run")
        theirs = ["--config", str(config), *theirs]
    elif not any(arg.partition("=")[0] in ("--data", "--config", "--help", "-h") for arg in theirs):
        raise UsageError("give a run, or --data: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    with world() as here, tempfile.TemporaryDirectory(prefix="maskery-profile-") as scratch:
        chosen = parse_options(theirs, "maskery profile")
        base = base_run(chosen, theirs, here.device, Terminal())
        run = apply_options(chosen, theirs, base.run)
        for reason in base.reasons:
            Terminal().say(reason)
        facts = measure(run, Path(scratch) / "run", here, asked.timed)
    print(table(facts))
    if asked.json:
        target = Path(asked.json)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, js.dumps(facts, indent=1).encode())
    return facts


def measure(run: Run, out: Path, here: World, timed: int) -> dict[str, Any]:
    """Profile `run` by `timed` steps of each kind in the directory `out`: numbers, and the findings they lead to."""
    device = here.device
    workers = min(16, os.cpu_count() or 1) if run.images.workers is None else run.images.workers
    unlogged = replace(run, steps=1_000_000, watch=WatchConfig(log_every=10**9, looks=0), save=SaveConfig(minutes=1e9))
    clock = Clock(device, 3 + 4 * workers, timed)  # more than loader processes prepare in advance
    with contextlib.suppress(Enough):
        train(unlogged, out, here, ["a profile: only some dozen steps of this run are taken"], done=clock)
    used = memory(device)
    data = open_data(run.data, run.images, run.size, Quiet(), here)
    run = replace(resolve(run, data, device), micro_batch=read_config(out / "config.yaml").micro_batch)

    facts: dict[str, Any] = {
        "step_seconds": clock.seconds[1],
        "images_per_second": run.batch_size / clock.seconds[1],
        "parts": clock.parts,  # seconds of a step when the device is waited for after each of them
        "shares": {name: seconds / max(sum(clock.parts.values()), 1e-12) for name, seconds in clock.parts.items()},
        **utilisation(run, device, run.batch_size / clock.seconds[1]),
        "memory_gb": used,
        "memory_total_gb": total_memory(device) / 1e9,
        "workers": data.workers(),
        "images_per_second_per_worker": images_per_second(run, data, device, 0.15 * timed),
        "kept_in_memory": bool(data.images.memory),
        "packed": data.images.source.full_sizes is not None,
        "batch_size": run.batch_size,
        "micro_batch": run.micro_batch,
        "precision": run.precision,
        "compile": run.compile,
        "bf16": device.type == "cuda" and torch.cuda.is_bf16_supported(),
        "cores": os.cpu_count() or 1,
    }
    facts["findings"] = findings(facts, device.type)
    settings = {name: value for name, value in asdict(run).items() if name not in ("watch", "save")}
    return facts | {"run": settings, "environment": environment(here), "command": sys.argv}


def utilisation(run: Run, device: torch.device, images_per_second: float) -> dict[str, float]:
    """The model's FLOP per second as a fraction of what a large matrix product reaches."""
    ceiling = matrix_product(device, torch.bfloat16 if run.precision == "bf16" else torch.float32)
    flop = flop_per_image(run, device)
    return {
        "gflop_per_image": flop / 1e9,
        "matrix_product_tflops": ceiling / 1e12,
        "utilisation": images_per_second * flop / ceiling,
    }


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matrix_product(device: torch.device, dtype: torch.dtype, n: int | None = None) -> float:
    """FLOP per second of a large matrix product: the most that the device reaches."""
    n = n or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):  # the first ones wake the device up
        began, many = time.perf_counter(), 10 if device.type == "cuda" else 2
        for _ in range(many):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, many * 2 * n**3 / (time.perf_counter() - began))
    return best


def flop_per_image(run: Run, device: torch.device) -> float:
    """Floating point operations of a step for one image: matrix products and attention, forward and backward."""
    objective = build_objective(OBJECTIVES[run.method], run.settings, run.vit()).to(device).train()
    image = torch.rand(objective.micro_batch_multiple, objective.encoder.config.channels, *run.size, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the other kernels are not counted
        batch = objective.sample(dict.fromkeys(objective.views(run.crop), image), 0.0)
        objective(batch, 0.0)["loss"].backward()
    return counter.get_total_flops() / objective.micro_batch_multiple


def images_per_second(run: Run, data: ImageData, device: torch.device, seconds: float) -> float:
    """What one loader process makes of these images, on one thread as it has it."""
    with torch.device("meta"):
        views = build_objective(OBJECTIVES[run.method], run.settings, run.vit()).views(run.crop)
    crops = list({id(crop): crop for crop in views.values()}.values())
    plan = SamplingPlan(run.size, run.seed, min(run.batch_size, 32), device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset = TrainDataset(data.images, data.train, plan, RandomCrops(crops))
        loader = train_batches(dataset, 0, 1_000_000, 0)
        next(loader)
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(loader)
            made += plan.batch
        return made / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def _ours(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of this verb alone, and those of the run; --help is ours."""
    names = {f.name for f in fields(ProfileOptions)} - {"pretrain"}
    ours, theirs, mine = [], [], False
    for arg in args:
        if arg.startswith("-"):
            mine = arg.partition("=")[0].lstrip("-") in names | {"help", "h", "out", "overwrite"}
            if mine and arg.partition("=")[0] in ("--out", "--overwrite"):
                raise UsageError(f"{arg.partition('=')[0]}: a profile keeps no run; --json FILE keeps its numbers")
        (ours if mine else theirs).append(arg)
    return ours, theirs

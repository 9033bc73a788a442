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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from ..options import UsageError, options, parse, value_of
from ..outputs import write_file
from ..runs.directory import read_config
from ..terminal import Quiet, Terminal
from ..train import resolve, train
from ..weights.teacher import build_objective
from .pretrain import PretrainOptions, base_run, check_run, named_base, with_length

PARTS = ("data wait", "crop", "draw", "forward", "backward", "optimiser", "after_step")
PATIENCE = 30.0  # seconds that each of the three kinds of steps may take, once there are three of them
SIGNIFICANT = 0.1  # fraction of a step that deserves a sentence
Finding = tuple[float, str]  # (fraction of a step, sentence)


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
    args = [*args, *options(leaves)]
    if where := value_of(args, "--run"):
        config = Path(where) / "config.yaml"
        if not config.is_file():
            raise ValueError(f"{where}: there is no such run")
        args = ["--config", str(config), *args]

    def parsed(base: Run) -> ProfileOptions:
        return parse(ProfileOptions, args, "maskery profile", ProfileOptions(PretrainOptions(base)))

    asked = parsed(named_base(args))
    chosen = asked.pretrain
    if chosen.out or chosen.overwrite:
        option = "out" if chosen.out else "overwrite"
        raise UsageError(f"--{option}: a profile keeps no run; --json FILE keeps its numbers")
    if asked.timed < 1:
        raise UsageError(f"--timed is {asked.timed}: it has to be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("maskery profile runs in one process: start it without torchrun")
    if not (chosen.run.data or chosen.config):
        raise UsageError("give a run, or --data: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    with world() as here, tempfile.TemporaryDirectory(prefix="maskery-profile-") as scratch:
        base, _ = base_run(chosen, args, here.device, Terminal())
        run = with_length(parsed(base.run).pretrain.run, args)
        check_run(run)
        for reason in base.reasons:
            Terminal().say(reason)
        facts = measure(run, Path(scratch) / "run", here, asked.timed)
    print(table(facts))
    if asked.json:
        write_file(Path(asked.json), js.dumps(facts, indent=1).encode())
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


def table(facts: dict[str, Any]) -> str:
    """The numbers of a profile for people."""
    parts, shares = facts["parts"], facts["shares"]
    lines = [f"{'part of a step':14} {'ms':>9}  share"]
    lines += [f"{name:14} {1e3 * seconds:9.1f}  {shares[name]:5.1%}" for name, seconds in parts.items()]
    lines += [
        f"{'all parts':14} {1e3 * sum(parts.values()):9.1f}         the device is waited for after each of them",
        f"{'undisturbed':14} {1e3 * facts['step_seconds']:9.1f}         {facts['images_per_second']:,.1f} images/s",
        "",
        f"utilisation    {facts['utilisation']:.1%} of this device's largest {facts['precision']} matrix product "
        f"({facts['matrix_product_tflops']:,.2f} TFLOP/s; {facts['gflop_per_image']:,.2f} GFLOP an image)",
        f"memory         {facts['memory_gb']:.2f} of {facts['memory_total_gb']:.0f} GB, micro-batches of "
        f"{facts['micro_batch']} of {facts['batch_size']} images",
        f"data           {facts['images_per_second_per_worker']:,.0f} images/s from one loader process; "
        + (f"there are {facts['workers']}" if facts["workers"] else "the loop makes its own batches")
        + (" (images are in memory)" if facts["kept_in_memory"] else ""),
        "",
    ]
    return "\n".join(lines + [f"- {sentence}" for sentence in facts["findings"]])


def findings(facts: dict[str, Any], device: str) -> list[str]:
    """One sentence for everything that costs time and can be changed, the most expensive first; never empty."""
    shares = facts["shares"]
    ranked = [*_data(facts), *(_gpu(facts) if device == "cuda" else ()), *_parts(shares)]
    ranked.sort(key=lambda finding: -finding[0])
    return [sentence for _, sentence in ranked] or [
        f"Nothing to change: {shares['forward'] + shares['backward']:.0%} of a step is forward and backward, at "
        f"{facts['utilisation']:.0%} of what the device's matrix product reaches."
    ]


def _data(facts: dict[str, Any]) -> Iterator[Finding]:
    """Waiting for images: more loader processes, or images that are cheaper to read."""
    wait, per_worker = facts["shares"]["data wait"], facts["images_per_second_per_worker"]
    if wait < SIGNIFICANT:
        return
    workers, cores = facts["workers"], facts["cores"]
    step_rate = facts["images_per_second"] / max(1 - wait, 1e-3)  # of the step without waiting
    needed = max(1, min(cores, -(-int(step_rate) // max(int(per_worker), 1))))  # loader processes
    more = f"--images.workers {needed}" if needed > workers else ""
    cheaper = "" if facts["kept_in_memory"] or facts["packed"] else "`maskery pack` makes images cheaper to read"
    if not workers:
        why, advice = "and none runs during a step", [more, cheaper]
    elif per_worker * workers < step_rate:
        why = f"{workers} of them are not enough for the {step_rate:,.0f} the step could take"
        advice = [more, cheaper] if more or cheaper else ["more cores would help"]
    else:
        why = f"so {workers} would be enough if they had cores of their own ({cores} are shared with the step)"
        advice = [cheaper]
    waiting = f"{wait:.0%} of a step is waiting for images: one loader process makes {per_worker:,.0f} a second"
    yield wait, ": ".join(filter(None, (f"{waiting}, {why}", ", or ".join(filter(None, advice))))) + "."


def _gpu(facts: dict[str, Any]) -> Iterator[Finding]:
    """Precision, compilation and free memory."""
    if facts["precision"] == "float32" and facts["bf16"]:
        yield 0.6, "Matrix products are in float32, and this GPU has bf16: --precision bf16."
    if facts["compile"] == "off":
        yield 0.3, "The method is not compiled: --compile on fuses what lies between matrix products."
    free = 1 - facts["memory_gb"] / facts["memory_total_gb"]
    if facts["micro_batch"] < facts["batch_size"] and free > 0.55:
        yield 0.2, f"{free:.0%} of the GPU's memory is free: a larger --micro-batch than {facts['micro_batch']}."


def _parts(shares: Mapping[str, float]) -> Iterator[Finding]:
    """Cropping, random choices and the optimiser."""
    crop, draw, update = shares["crop"], shares["draw"], shares["optimiser"] + shares["after_step"]
    if crop >= SIGNIFICANT:
        yield crop, f"{crop:.0%} of a step is cutting crops: `maskery pack` makes them small."
    if draw >= 2 * SIGNIFICANT:
        yield (
            draw,
            f"{draw:.0%} of a step is what the method draws beforehand (strong views, teachers that see whole images): "
            "that is its price, another --method has none or less of it.",
        )
    if update >= SIGNIFICANT:
        yield update, f"{update:.0%} of a step is the optimiser's: a larger --batch-size shares it among more images."

"""The parts of `benchmarks.gpu`: each measures one thing on a device and gives rows, at a tiny size on any CPU."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from maskery.methods import METHODS
from maskery.recipes import DECODERS

from .count import per_image
from .methods import built, predicted, vit_of
from .peers import PEERS, installed
from .step import Case, seconds, step_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One step to be measured: a method or a peer, a case, and how it is compiled ("eager": not at all)."""

    name: str
    case: str
    compile: str = "default"

    def __str__(self) -> str:
        return f"{self.name} {self.case} {self.compile}"


BASE, LARGE, SMALL = "vit-base/16@224x256", "vit-large/16@224x128", "vit-small/16@224x512"
TINY = "vit-micro/8@32x8"
EAGER = [Job(name, BASE, "eager") for name in ("mae", "transformers")]
SIZES = [Job(name, case) for case in (BASE, LARGE, SMALL) for name in ("mae", "transformers", "lightly")]
METHODS_AT_BASE = [Job(name, BASE) for name in METHODS if name != "mae"]
OTHERS = [
    Job("mae", "vit-base/16@224x1024"),
    Job("mae", "vit-large/16@224x512"),
    Job("mae", "vit-small/16@224x1024"),
    Job("mae", SMALL, "reduce-overhead"),
    Job("mae", BASE, "max-autotune-no-cudagraphs"),
    *(Job(name, case) for case in (SMALL, LARGE) for name in METHODS if name != "mae"),
]
TINY_JOBS = [Job(name, TINY, "eager") for name in ("mae", "transformers", "lightly", "rc-mae")]


def ceilings(device: torch.device, tiny: bool) -> Iterator[Row]:
    """The largest matrix product, copying, and attention kernels on the sequences MAE has."""
    from maskery.commands.profile import matrix_product

    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    yield {"what": f"matrix product, {dtype}", "tflops": matrix_product(device, dtype, 128 if tiny else None) / 1e12}
    yield {"what": "copying, read and written", "gb_per_second": copying(2**20 if tiny else 2**32, device) / 1e9}
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    kernels |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
    for where, shape in (("encoder of B", (256, 12, 50, 64)), ("decoder of B", (256, 16, 197, 32))):
        b, heads, tokens, width = (2, 2, 9, 8) if tiny else shape
        x = torch.randn(b, tokens, 3 * heads * width, device=device, dtype=dtype, requires_grad=True)
        for kernel, backend in kernels.items():

            def attention(x: torch.Tensor = x, heads: int = heads) -> None:
                q, k, v = x.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
                F.scaled_dot_product_attention(q, k, v).sum().backward()

            row: Row = {"what": f"attention, {where}, forward and backward", "kernel": kernel}
            try:
                with sdpa_kernel(backend):
                    row["tflops"] = (
                        3 * 4 * b * heads * tokens**2 * width / timed(attention, device, 0.02 if tiny else 0.3) / 1e12
                    )
            except RuntimeError as e:
                row["error"] = first_line(e)
            yield row


def copying(size: int, device: torch.device) -> float:
    """Bytes read and written per second by a copy of so many."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / timed(lambda: target.copy_(source), device, 0.02 if size < 2**30 else 0.5)


def stepping(job: Job, device: torch.device) -> Callable[[], None]:
    """The step of a job, built and not yet taken. ImportError when the peer is not installed."""
    case = Case.of(job.case)
    images = torch.rand(case.batch, 3, case.pixels, case.pixels, device=device)
    if job.name in PEERS:
        peer = installed(job.name, case)
        if peer is None:
            raise ImportError("not installed")
        net, loss = peer
        model: Any = compiled(net.to(device).train(), job)
        return step_of(model, lambda model: loss(model, images), device)
    objective = built(job.name, case).to(device).train()
    model = compiled(objective, job)
    take = step_of(model, lambda model: model(objective.sample({"image": images}, 0.5), 0.5)["loss"], device)

    def step() -> None:
        if job.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        take()
        objective.after_step(0.5)

    return step


def compiled(net: torch.nn.Module, job: Job) -> Any:
    return net if job.compile == "eager" else torch.compile(net, dynamic=False, mode=job.compile)


def measure(device: torch.device, job: Job, peak: float) -> Row:
    """Speed, utilisation and memory of one step."""
    case, cuda = Case.of(job.case), device.type == "cuda"
    row: Row = {"name": job.name, "case": job.case, "compile": job.compile}
    began = time.perf_counter()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = stepping(job, device)
    for _ in range(3):
        step()
    row["ready_after_seconds"] = round(time.perf_counter() - began, 1)
    if cuda:
        torch.cuda.synchronize()
        resting = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        row["memory_mb_per_image"] = round((torch.cuda.max_memory_allocated() - resting) / case.batch / 1e6, 2)
        row["memory_gb_at_rest"] = round(resting / 1e9, 2)
    rate = case.batch / timed(step, device, 2.0 if cuda else 0.05)
    flop = per_image(vit_of(case), DECODERS[case.model])["mae"] * predicted(case).get(job.name, 1.0)
    return row | {"images_per_second": round(rate, 1), "mfu": round(rate * flop / peak, 4)}


def loop(device: torch.device, tiny: bool, where: str, model: str, micro: int, scratch: Path) -> Row:
    """`maskery profile` of a run of MAE: the real loop, loader and crops."""
    from maskery.commands import profile
    from maskery.config import ImagesConfig, Run
    from maskery.distributed import World

    run = Run(METHODS["mae"].Config(decoder=DECODERS[model]), data=where, model=model, batch_size=micro)
    run = replace(run, micro_batch=micro, images=ImagesConfig(memory=0.0))
    if tiny:
        run = replace(run, patch_size=8, image_size=32, images=ImagesConfig(memory=0.0, workers=0))
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        facts = profile.measure(run, Path(out) / "run", World(0, 1, 1, device), 2 if tiny else 20)
    return {name: value for name, value in facts.items() if name not in ("run", "environment", "command")}


def kernels(device: torch.device, job: Job, most: int = 25) -> Iterator[Row]:
    """The kernels that three steps spend most of their time in."""
    from torch.profiler import ProfilerActivity, profile

    step = stepping(job, device)
    for _ in range(3):
        step()
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            step()
        if cuda:
            torch.cuda.synchronize()
    times = {e.key: e.self_device_time_total if cuda else e.self_cpu_time_total for e in seen.key_averages()}
    counts = {e.key: e.count for e in seen.key_averages()}
    whole = sum(times.values()) or 1.0
    for name in sorted(times, key=lambda name: -times[name])[:most]:
        yield {"kernel": name[:100], "calls": counts[name] / 3, "ms": times[name] / 3e3, "share": times[name] / whole}


def photographs(folder: Path, count: int) -> Path:
    """JPEGs of the size photographs have, from smooth noise: class folders, quality 90."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(photograph, [str(folder / f"{i % 10}" / f"{i:06d}.jpg") for i in range(count)], chunksize=16))
    return folder


def photograph(path: str) -> None:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(int(Path(path).stem))
    height, width = [(375, 500), (500, 375), (333, 500), (480, 640)][random.integers(4)]
    coarse = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.integers(-12, 13, (height, width, 1), dtype=np.int16)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def packed(folder: Path, out: Path) -> Path:
    """The folder packed at short side 256 by `maskery pack`."""
    subprocess.run(
        [sys.executable, "-m", "maskery", "pack", "--data", str(folder), "--out", str(out)],
        check=True,
        capture_output=True,
    )
    return out


def timed(function: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Seconds of one call: the median of five rounds that take `budget` seconds together."""
    function()
    many = max(1, round(budget / 5 / max(seconds(function, 1, device), 1e-6)))
    return sorted(seconds(function, many, device) for _ in range(5))[2]


def first_line(error: BaseException) -> str:
    return (f"{type(error).__name__}: " + " ".join(str(error).split()))[:200]

"""What several processes are worth: steps of MAE by one process alone against steps by all, in the same launch.

Every process has the same number of images in both. In each round first one process steps while the others wait, then
all do, so that what else the machine does falls on both. A step is the loop's: masks, forward, backward, the exchange
of gradients, AdamW, and the question whether a signal came. Ratios are medians over rounds; as many as there are
processes would be perfect.

    python -m benchmarks.scaling [--processes N] [--rounds N] [--ways WAY ...] [--out FILE.json] [CASE ...]

Ways: apart (nobody exchanges anything: what the machine gives), copies (DDP as we set it), static (with static_graph),
small and large (buckets of 5 and 100 MB instead of 25), shared (FSDP2, as --shard).
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from maskery import sharding
from maskery.distributed import World, data_parallel, world
from maskery.optim import optimizer_of

from .step import Case, environment, ours, seconds

CASES = ("vit-micro/8@64x64", "vit-tiny/8@64x32", "vit-small/16@224x8")
WAYS = ("apart", "copies", "static", "small", "large", "shared")
SECONDS = 1.0  # of a round and way


def wrapped(way: str, net: Any, here: World) -> Any:
    if way == "apart":
        return net
    if way == "copies":
        return data_parallel(net, here.device)
    if way == "shared":
        precision = torch.bfloat16 if here.device.type == "cuda" else torch.float32
        sharding.over(here, net, precision, compiled=here.device.type == "cuda")
        return net
    ids = [here.device.index] if here.device.type == "cuda" else None
    set_to: dict[str, Any] = {
        "static": {"static_graph": True},
        "small": {"bucket_cap_mb": 5},
        "large": {"bucket_cap_mb": 100},
    }
    return DistributedDataParallel(
        net, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False, **set_to[way]
    )


def step_of(model: Any, net: Any, images: torch.Tensor, ask: Callable[[bool], bool]) -> Callable[[], None]:
    """One step of the loop as a function: bf16 autocast on a GPU, float32 on a CPU."""
    optimizer, cuda = optimizer_of(net), images.device.type == "cuda"
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=cuda):
            with torch.no_grad():
                batch = net.sample({"image": images}, 0.0)
            loss = model(batch, 0.0)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ask(False)

    return step


def compare(case: Case, ways: list[str], rounds: int, here: World) -> list[dict[str, Any]]:
    """One row a way. Every process has to call it."""
    torch.manual_seed(0)
    images = torch.rand(case.batch, 3, case.pixels, case.pixels, device=here.device)
    net, compiled = ours(case).to(here.device).train(), here.device.type == "cuda"
    nets = {way: copy.deepcopy(net) for way in ways}
    one = step_of(torch.compile(net, dynamic=False) if compiled else net, net, images, lambda word: word)
    steps = {}
    for way, own in nets.items():
        inner = torch.compile(own, dynamic=False) if compiled and way != "shared" else own
        steps[way] = step_of(wrapped(way, inner, here), own, images, here.any)
    for step in (one, *steps.values()):
        for _ in range(3):
            step()
    many = max(here.gather(max(2, round(SECONDS / seconds(one, 2, here.device)))))
    alone: dict[str, list[float]] = {way: [] for way in ways}
    together: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(rounds):
        for way in ways if round_ % 2 else ways[::-1]:
            here.wait()
            if here.main:
                alone[way].append(seconds(one, many, here.device))
            here.wait()
            together[way].append(seconds(steps[way], many, here.device))
    if not here.main:
        return []
    rows = []
    for way in ways:
        ratios = [here.size * a / b for a, b in zip(alone[way], together[way], strict=True)]
        rates = {
            "one": case.batch / statistics.median(alone[way]),
            "all": here.size * case.batch / statistics.median(together[way]),
        }
        rows.append(
            {
                "case": str(case),
                "way": way,
                "processes": here.size,
                "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "steps_per_round": many,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| step of MAE, images of each process | way | one alone, images/s | all, images/s | processes | ratio |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        speed = row["images_per_second"]
        cells = [
            row["case"],
            row["way"],
            f"{speed['one']:,.1f}",
            f"{speed['all']:,.1f}",
            row["processes"],
            row["ratio"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def launch(processes: int, args: list[str]) -> int:
    """Start this file again as so many processes, each with an equal share of the cores."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    run = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "-m",
        "benchmarks.scaling",
    ]
    return subprocess.run([sys.executable, *run, *args], env=os.environ | {"OMP_NUM_THREADS": threads}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES, help="SIZE/PATCH@PIXELSxBATCH, the images of one process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["apart", "copies", "shared"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if "WORLD_SIZE" not in os.environ:
        sys.exit(launch(args.processes, sys.argv[1:]))
    with world() as here:
        rows = [row for case in args.cases for row in compare(Case.of(case), args.ways, args.rounds, here)]
        if here.main:
            print(table(rows))
            if args.out:
                args.out.write_text(json.dumps({**environment(here.device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

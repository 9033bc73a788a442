"""What `test_shard.py` looks at, made by two processes in one launch: python -m torch.distributed.run ... DIR DATA."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

import maskery
from maskery import checkpoint, sharding
from maskery.checkpoint import CheckpointError, State
from maskery.commands.evaluate_trained import evaluate
from maskery.distributed import World, world
from maskery.methods import METHODS
from maskery.optim import optimizer_of

from .test_checkpoint import little_room
from .test_microbatch import TRIED, Tight, built
from .test_train import TINY, settings_of

STEPS = 3
WATCH = {"log_every": 1, "looks": 0}
PROBE = {"steps": STEPS, "batch_size": 8, "watch": WATCH, "settings": {"lrs": [1.0, 3.0]}, "overlap": False}


def leaves_of(method: str, data: str) -> dict[str, Any]:
    save = {"every": 1 if method in ("mae", "rc-mae") else STEPS, "keep": 0}
    settings = {"method": method, "settings": settings_of(method), "save": save}
    return TINY | settings | {"data": data, "steps": STEPS, "watch": WATCH}


def every_method(out: Path, data: str) -> None:
    for method in METHODS:
        for name, shared in (("copies", False), ("shared", True)):
            maskery.pretrain(out=out / f"{method}-{name}", shard=shared, **leaves_of(method, data))


def ways_of_one_run(out: Path, data: str, here: World) -> None:
    """MAE in micro-batches, in bf16, with looks, and interrupted."""
    leaves = leaves_of("mae", data)
    maskery.pretrain(out=out / "cut-shared", shard=True, micro_batch=2, **leaves)
    for name, shared in (("copies", False), ("shared", True)):
        maskery.pretrain(out=out / f"bf16-{name}", shard=shared, precision="bf16", **leaves)
    maskery.pretrain(out=out / "looks-copies", **leaves | {"watch": TINY["watch"]})
    maskery.pretrain(out=out / "looks-shared", shard=True, **leaves | {"watch": TINY["watch"]})
    if here.main:
        interrupted(out / "rc-mae-shared", out / "rc-mae-resumed", 2)
    here.wait()
    maskery.resume(out / "rc-mae-resumed")


def interrupted(run: Path, copy: Path, step: int) -> None:
    """A copy of a run as if it had ended right after checkpoint `step`."""
    shutil.copytree(run, copy)
    for later in (p for p in (copy / "checkpoints").glob("step-*") if int(p.name[5:]) > step):
        shutil.rmtree(later)


def other_number_of_processes(out: Path, here: World) -> None:
    """What one process wrote, read into shared-out parameters and written by two; then a write that one cannot do."""
    objective = built("rc-mae")
    sharding.shard_parameters(objective, here, torch.float32, compiled=False)
    optimizer = optimizer_of(objective)
    loaded = checkpoint.restore(out / "alone", objective, optimizer, here)
    assert loaded is not None
    checkpoint.save(out / "two", objective, optimizer, loaded.state, "seed: 0\n", here)
    said = ""
    try:
        if here.main:
            checkpoint.save(out / "two", objective, optimizer, State(9, {}, 0, ""), "", here)
        else:
            with little_room():
                checkpoint.save(out / "two", objective, optimizer, State(9, {}, 0, ""), "", here)
    except CheckpointError as e:
        said = str(e)
    words = here.gather(said)
    if here.main:  # a file where the directory should be: only the first process comes to see it
        (out / "full-disk.json").write_text(json.dumps(words))
        (out / "blocked").write_text("")
    here.wait()
    said = ""
    try:
        checkpoint.save(out / "blocked", objective, optimizer, State(9, {}, 0, ""), "", here)
    except CheckpointError as e:
        said = str(e)
    words = here.gather(said)
    if here.main:
        (out / "blocked.json").write_text(json.dumps(words))


def room_on_one_of_two(out: Path, data: str, here: World) -> None:
    """The second process has room for fewer images than the first: both go by the smaller number."""
    METHODS["tight"] = Tight
    Tight.ROOM = 8 if here.main else 5
    maskery.pretrain(out=out / "tight", **leaves_of("mae", data) | {"method": "tight"})
    tried = here.gather(TRIED)
    if here.main:
        (out / "tried.json").write_text(json.dumps(tried))


def probed(out: Path, data: str) -> None:
    """A probe that normalises by the whole batch, of a run that is there."""
    evaluate("probe", where=out / "mae-copies", data=data, out=out / "probed", **PROBE)


def exchanges(out: Path, data: str, here: World) -> None:
    """How often two processes add something up in a run, by the number of its micro-batches."""
    counts: dict[int, int] = {}
    for size in (8, 2):
        with torch.profiler.profile() as seen:
            maskery.pretrain(
                out=out / ("cut-copies" if size < 8 else "whole-copies"), micro_batch=size, **leaves_of("mae", data)
            )
        counts[size] = sum(e.count for e in seen.key_averages() if e.key == "c10d::allreduce_")
    if here.main:
        (out / "exchanges.json").write_text(json.dumps([counts[8], counts[2]]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, images = Path(sys.argv[1]), sys.argv[2]
    with world() as two:
        every_method(folder, images)
        ways_of_one_run(folder, images, two)
        other_number_of_processes(folder, two)
        room_on_one_of_two(folder, images, two)
        probed(folder, images)
        exchanges(folder, images, two)

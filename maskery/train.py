"""The loop: everything between a `Run` and its directory, top to bottom.

One clock: `step` counts optimiser steps, t = step / steps is the progress that schedules and methods see. Checkpoint S
lies between the log line of step S and the look at step S. All randomness is a function of (seed, step, rank).
"""

import contextlib
import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from . import checkpoint, config, microbatch, sharding
from .config import Run
from .data.dataset import check_unreadable, open_data
from .data.loader import train_batches
from .data.train_dataset import SamplingPlan
from .data.views import to_float
from .distributed import ALONE, World, data_parallel
from .evals.periodic import look
from .health.monitor import HealthMonitor
from .log import Log, Sums, environment, usage
from .nn.vit import recompute_blocks
from .objective import Batch, Losses, Objective
from .objectives import OBJECTIVES
from .optim import optimizer_of
from .outputs import write_file
from .resolve import resolved
from .runs import best
from .schedule import warmup_cosine
from .signals import signals
from .terminal import Quiet, Terminal
from .trackers import tracker
from .weights import load
from .weights.teacher import build_objective


class Diverged(RuntimeError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Result:
    step: int
    steps: int
    stopped: bool  # by a signal, with a checkpoint
    looks: tuple[dict[str, Any], ...]  # of the whole run: step, epoch, held_out_loss, knn_..., in order (main process)
    signalled: bool = False  # a signal came, be it that there was nothing left to stop


def train(
    run: Run,
    out: Path,
    world: World,
    notes: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    done: Callable[[str], None] = lambda part: None,
) -> Result:
    """Train `run` into the directory `out`, go on with what is in there, or remove that first (`overwrite`).

    `done` hears of every part of a step when it is over: "data wait", "crop", "draw", "forward", "backward" (these two
    for every micro-batch), "optimiser", "after_step".

    Raises ValueError for settings and data that do not fit, `CheckpointError`, and `Diverged` when the loss is nan.
    """
    device = world.device
    terminal = Terminal() if world.main else Quiet()
    say = terminal.say
    for note in notes:
        say(note)
    sharded = run.shard and world.size > 1
    if run.shard and not sharded:
        if not resume:
            raise ValueError("--shard needs several processes: torchrun --nproc-per-node N -m maskery pretrain ...")
        say("one process alone: nothing is shared out")

    # ------------------------------------------------------------------------------------------------- data
    plan = SamplingPlan(run.size, run.seed, run.batch_size, world.rank, world.size, device)
    data = open_data(run.data, run.images, run.size, terminal, world)
    run = resolved(run, data, device)
    settings, data = OBJECTIVES[run.method].prepare(run.settings, data)
    run = replace(run, settings=settings)
    n, steps = len(data.train), run.total_steps(len(data.train))
    held = "a split of the data" if data.images.source.splits is not None else "by a hash of the name"
    held = held if len(data.held_out) else "too few images to hold some out"
    say(f"training on {n:,} images, {len(data.held_out):,} held out ({held})")
    if run.batch_size > n:
        say(
            f"batch {run.batch_size} is larger than the {n} training images: every step sees an image "
            f"about {run.batch_size / n:.1f} times, under different crops and masks"
        )

    # ------------------------------------------------------------------------------------------------- method
    torch.manual_seed(run.seed)
    objective = build_objective(OBJECTIVES[run.method], run.settings, run.vit())
    checkpoints = out / "checkpoints"
    if run.init and not (resume and checkpoint.complete(checkpoints)):
        say(load.start_from(objective, Path(run.init)))
    objective.train()
    if run.recompute:
        recompute_blocks(objective)
    for note in objective.notes:
        say(note)
    compiled = run.compile == "on" and not objective.no_compile_reason
    if run.compile == "on" and objective.no_compile_reason:
        say(f"not compiled: {objective.no_compile_reason}")
    sizes = microbatch.sizes(plan.per_process_batch, objective)
    precision = torch.bfloat16 if run.precision == "bf16" else torch.float32
    shown: Objective | None = objective  # what is looked at: a whole network, and where there is none, a copy
    if sharded:
        shown = copy.deepcopy(objective) if world.main and run.watch.looks else None
        sharding.over(world, objective, precision, compiled)
        model: Any = objective
    else:
        model = objective.to(device)
        if compiled:
            model = torch.compile(model, dynamic=False)
        if world.size > 1:
            model = data_parallel(model, device)
    optimizer = optimizer_of(objective, run.optim, objective.has_weight_decay, objective.lr_multiplier)
    parameters = sum(p.numel() for p in objective.encoder.parameters()) / 1e6
    say(
        f"{run.method}, {run.model}/{run.patch_size} at {run.size[0]} x {run.size[1]} ({parameters:.1f} M parameters), "
        f"{steps:,} steps of {run.batch_size} images, {run.precision} on {world.size} x {device.type}"
        + (", parameters shared out" if sharded else "")
    )
    say(f"lr {run.lr:.3g} = base lr {run.optim.base_lr:g} x batch {run.batch_size} / 256")

    def drawn(images: Mapping[str, Tensor], t: float) -> Batch:
        with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return objective.sample(dict(images), t)

    def backward(batch: Batch, t: float, start: int, size: int, exchange: bool = True) -> Losses:
        """Forward and backward of the micro-batch that begins at image `start`.

        Processes exchange gradients only in the last one. Shared out, they do in every one: whole gradients are what
        there is no room for.
        """
        part = microbatch.slice_batch(batch, start, size)
        quiet = isinstance(model, DistributedDataParallel) and not (exchange and start + size == plan.per_process_batch)
        with model.no_sync() if quiet else contextlib.nullcontext():
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                losses = model(part, t)
            done("forward")
            (losses["loss"] * (size / plan.per_process_batch)).backward()
            done("backward")
        return losses

    # ------------------------------------------------------------------------------------------------- micro-batches
    def attempt(size: int) -> None:
        """As a step, on noise, with room for what the optimiser will keep of every parameter."""
        if compiled:
            torch.compiler.reset()  # a graph a size: after eight of them it would give up compiling
        room = [torch.empty_like(p) for p in objective.parameters() if p.requires_grad for _ in range(2)]
        image = torch.rand(plan.per_process_batch, objective.encoder.config.channels, *run.size, device=device)
        batch = drawn(dict.fromkeys(objective.views(run.crop), image), 0.0)
        for start in range(0, plan.per_process_batch, size)[
            :2
        ]:  # the second finds the gradients of the first in memory
            backward(batch, 0.0, start, size, exchange=False)
        del room

    def forget() -> None:
        objective.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    if sharded and run.micro_batch == "auto":
        micro = (
            plan.per_process_batch
        )  # nobody can step back from an attempt while others wait for their part of a layer
    elif run.micro_batch == "auto" or (resume and objective.needs_whole_batch):
        micro = microbatch.largest_that_fits(sizes, attempt, world.any, forget)
        run = replace(run, micro_batch=micro)  # resuming does not search again
    else:
        micro = microbatch.size_up_to(run.micro_batch, plan.per_process_batch, objective)
    if micro < plan.per_process_batch:
        say(f"micro-batches of {micro} images: {plan.per_process_batch // micro} make a process's share of a batch")

    # ------------------------------------------------------------------------------------------------- resume
    step, sums = 0, Sums(device)
    trained_on = f"{n} images, digest {data.fingerprint()}"
    loaded = checkpoint.restore(checkpoints, objective, optimizer, world) if resume else None
    if loaded:
        step = loaded.state.step
        if world.main:
            sums = Sums(device, loaded.state.sums, loaded.state.count)
        for problem in loaded.damaged:
            say(f"passed over a damaged checkpoint: {problem}")
        say(f"going on from {loaded.path.name}")
        if loaded.state.trained_on != trained_on:
            say("the training images are not the ones this run began with: it will not end as an unbroken run would")
    world.wait()
    if world.main and overwrite and not resume:  # only now that nothing can be wrong with the new run
        shutil.rmtree(out, ignore_errors=True)
    log = None
    if isinstance(terminal, Terminal):
        log = Log(out, terminal, step, steps, tracker.opened(run, out, terminal.say))
    if log:
        write_file(out / "config.yaml", config.dump(run).encode())
        write_file(out / "environment.json", json.dumps(environment(world), indent=1).encode())
        log.skipped.add(data.unreadable)

    tell = log.say if log else say

    def save_now() -> None:
        totals, count = sums.gather(world) if sums.count else ({}, 0)
        if not all(map(math.isfinite, totals.values())):
            raise Diverged(f"the loss is not finite at step {step}; no checkpoint is written of it")
        if not sharded and not world.same(float(sum(p.detach().double().sum() for p in objective.parameters()))):
            raise Diverged(f"the processes' weights differ at step {step}; no checkpoint is written of them")
        if log or sharded:
            state, writers = checkpoint.State(step, totals, count, trained_on), world if sharded else ALONE
            checkpoint.save(checkpoints, objective, optimizer, state, config.dump(run), writers)
            if world.main:
                checkpoint.prune(checkpoints, run.save.keep)

    health = HealthMonitor(out, run)

    def look_now() -> bool:
        """Look; keep the best checkpoint. Whether there is nothing more to wait for."""
        new, enough, saved_already = False, False, False
        if sharded:
            sharding.gather(objective, shown)
        if log and shown:
            shown.to(device)
            numbers = look(shown, data, run.watch, step, step / steps, out, precision, workers)
            if sharded:
                shown.to("cpu")
            epoch = round(step * run.batch_size / n, 4)
            log.look({"step": step, "epoch": epoch} | numbers, out / "samples" / f"step-{step:08d}.png")
            for message in health.changes() if not objective.labelled else ():
                log.say(message)
            new, enough = best.compare_to_best(log.looks(), run.watch)
            saved_already = (checkpoints / f"step-{step:08d}").exists()
        if run.watch.best is not None:
            new, enough, saved_already = world.gather((new, enough, saved_already))[0]
            if new and not saved_already:
                save_now()
            if new and log:
                best.write_best(checkpoints, step)
        world.wait()
        return enough

    # ------------------------------------------------------------------------------------------------- steps
    views = objective.views(run.crop)
    crops = list({id(crop): crop for crop in views.values()}.values())  # views that share a crop object are cut once
    place = {name: [crop is c for c in crops].index(True) for name, crop in views.items()}
    workers = data.workers(world.local_size)
    loader = train_batches(objective.train_dataset(data, crops, plan), step, steps, workers)
    looks = {round(steps * k / run.watch.looks) for k in range(run.watch.looks + 1)} if run.watch.looks else set()
    saved, aside, waited, clock, since = time.monotonic(), 0.0, 0.0, time.perf_counter(), step
    norm = torch.zeros(())  # of the gradient
    most = 1e30 if run.optim.clip_grad is None else run.optim.clip_grad  # 1e30 clips nothing

    with log or contextlib.nullcontext(), signals() as stop:
        while step < steps:
            if step in looks:
                began = time.perf_counter()
                enough = look_now()
                aside += time.perf_counter() - began
                if enough:
                    save_now()
                    tell(f"stopped after step {step}: {run.watch.patience} looks without a better {run.watch.best}")
                    break

            t = step / steps
            lr = warmup_cosine(run.lr, run.optim.min_lr, run.optim.warmup, t)
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * lr

            began = time.perf_counter()
            item = next(loader)
            waited += time.perf_counter() - began
            done("data wait")
            if log and log.skipped.add(item["skipped"]):
                check_unreadable(run.data, [*log.skipped.reasons.items()], max(n, 100), run.images.unreadable)

            torch.manual_seed(draw_seed(run.seed, step, world.rank))
            cut = [to_float(images, device) for images in item["views"]]
            done("crop")
            try:
                given = {name: cut[i] for name, i in place.items()}
                if objective.labelled:
                    given["label"] = item["label"].to(device, non_blocking=True)
                batch = drawn(given, t)
                done("draw")
                for start in range(0, plan.per_process_batch, micro):
                    sums.add(backward(batch, t, start, micro))
            except torch.OutOfMemoryError as e:
                raise RuntimeError(microbatch.advice(step, micro, plan.per_process_batch, objective, out)) from e
            del cut, given, batch  # before the next ones come
            shows = (step + 1) % run.watch.log_every == 0 or step + 1 == steps  # on the log line
            if shows or run.optim.clip_grad is not None:
                norm = clip_grad_norm_(objective.parameters(), most)
            optimizer.step()
            optimizer.zero_grad()
            done("optimiser")
            step += 1
            objective.after_step(step / steps)
            done("after_step")

            # ----------------------------------------------------------------------------------------- log
            if shows:
                totals, count = sums.gather(world)  # the one place that waits for the device
                seconds = max(time.perf_counter() - clock - aside, 1e-9)
                facts = {
                    "step": step,
                    "epoch": round(step * run.batch_size / n, 4),
                    "t": step / steps,
                    **{name: total / count for name, total in totals.items()},
                    "lr": lr,
                    "grad_norm": float(sharding.whole(norm)),
                    "images_per_second": round((step - since) * run.batch_size / seconds, 1),
                    "data_wait": round(waited / seconds, 4),
                    **usage(device),
                }
                if not math.isfinite(facts["loss"]):
                    good, _ = checkpoint.newest_good(checkpoints)
                    raise Diverged(
                        f"the loss is {facts['loss']} at step {step} (lr {facts['lr']:.3g}); "
                        f"{f'{good.name} is still good' if good else 'there is no checkpoint yet'}; "
                        "a lower --optim.base-lr or --optim.clip-grad 1 usually helps"
                    )
                if log:
                    log.line(facts, left=seconds / (step - since) * (steps - step))
                sums, aside, waited, clock, since = Sums(device), 0.0, 0.0, time.perf_counter(), step

            # ----------------------------------------------------------------------------------------- save
            stopped = world.any(stop.is_set())
            if run.save.every is not None:
                due = step % run.save.every == 0
            else:
                due = since == step and world.any(time.monotonic() - saved > 60 * run.save.minutes)
            if due or stopped or step == steps:
                began = time.perf_counter()
                save_now()
                saved = time.monotonic()
                aside += time.perf_counter() - began
            if stopped and step < steps:
                tell(f"stopped by a signal after step {step}; go on with: maskery resume {out}")
                return Result(step, steps, True, log.looks() if log else (), True)

        if step == steps and step in looks:
            look_now()
        if log:
            log.before_and_after(out / "evals")
    return Result(step, steps, False, log.looks() if log else (), stop.is_set())  # here no signal can slip through


def draw_seed(seed: int, step: int, rank: int) -> int:
    """One seed for the masks of each step and process."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=7).digest())

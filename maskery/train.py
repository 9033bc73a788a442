"""Train a run: everything between a `Run` and its directory, top to bottom.

One clock: `step` counts optimiser steps, t = step / steps is the progress that schedules and methods see. Checkpoint S
lies between the log line of step S and the evaluation at step S. All randomness is a function of (seed, step, rank).
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
from torch.nn.utils import clip_grad_norm_

from . import checkpoint, config, microbatch, sharding
from .config import Run
from .data.crops import Crop
from .data.dataset import ImageData, SurveyedSource, check_unreadable, load_data, survey_source
from .data.loader import train_batches
from .data.sources.names import absolute
from .data.train_dataset import SamplingPlan
from .data.views import to_float
from .distributed import ALONE, World, data_parallel
from .evals.eval_pass import InferenceOptions
from .evals.periodic import PeriodicEvaluation
from .health.checks import HealthMonitor
from .log import LossSums, RunLog, StepTimer, device_usage, environment
from .nn.vit import recompute_blocks
from .objective import Objective
from .objectives import OBJECTIVES
from .optim import optimizer_of
from .outputs import write_file
from .runs import best
from .schedule import warmup_cosine
from .signals import signals
from .terminal import Quiet, Terminal
from .trackers import tracker
from .weights.load import start_from
from .weights.teacher import build_objective


class Diverged(RuntimeError):
    """The loss is not finite any more."""


@dataclass(frozen=True)
class Result:
    """How a call of `train` ended."""

    step: int
    steps: int
    stopped: bool  # by a signal, with a checkpoint
    looks: tuple[dict[str, Any], ...]  # periodic evaluations of the whole run: step, epoch, metrics (main process)
    signalled: bool = False  # a signal arrived, perhaps after the last step


def train(
    run: Run,
    out: Path,
    world: World,
    notes: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    surveyed: SurveyedSource | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> Result:
    """Train `run` into the directory `out`, resume the run in it, or remove that first (`overwrite`).

    `surveyed`: the source of `run.data`, where it is open already. `done` is called at the end of every part of a step:
    "data wait", "crop", "draw", "forward", "backward" (these two for every micro-batch), "optimiser", "after_step".

    Raises ValueError for settings and data that do not fit, `CheckpointError`, and `Diverged` when the loss is nan.
    """
    device = world.device
    terminal = Terminal() if world.main else Quiet()
    for note in notes:
        terminal.say(note)
    sharded = run.shard and world.size > 1
    if run.shard and not sharded:
        if not resume:
            raise ValueError("--shard needs several processes: torchrun --nproc-per-node N -m maskery pretrain ...")
        terminal.say("one process alone: parameters are not sharded")

    # ------------------------------------------------------------------------------------------------- data
    surveyed = surveyed or survey_source(run.data, run.images, terminal)
    data = load_data(surveyed, run.images, run.size, terminal, world)
    settings, prepared = OBJECTIVES[run.method].prepare(run.settings, data)
    run, data = replace(resolve(run, data, device), settings=settings), prepared
    n, steps = len(data.train), run.total_steps(len(data.train))
    for note in data_notes(run, data):
        terminal.say(note)

    # ------------------------------------------------------------------------------------------------- model
    torch.manual_seed(run.seed)
    objective = build_objective(OBJECTIVES[run.method], run.settings, run.vit())
    checkpoints = out / "checkpoints"
    if run.init and not (resume and checkpoint.complete(checkpoints)):
        terminal.say(start_from(objective, Path(run.init)))
    objective.train()
    if run.recompute:
        recompute_blocks(objective)
    for note in objective.notes:
        terminal.say(note)
    compiled = run.compile == "on" and not objective.no_compile_reason
    precision = torch.bfloat16 if run.precision == "bf16" else torch.float32
    plan = SamplingPlan(run.size, run.seed, run.batch_size, world.rank, world.size, device)
    microbatch.check_batch(plan.per_process_batch, objective)
    evaluated: Objective | None = objective  # a full network: with sharding a copy, on the main process only
    if sharded:
        evaluated = copy.deepcopy(objective) if world.main and run.watch.looks else None
        sharding.shard_parameters(objective, world, precision, compiled)
        model: Any = objective
    else:
        model = objective.to(device)
        model = torch.compile(model, dynamic=False) if compiled else model
        model = data_parallel(model, device) if world.size > 1 else model
    optimizer = optimizer_of(objective, run.optim, objective.has_weight_decay, objective.lr_multiplier)
    for note in model_notes(run, objective, steps, world, sharded):
        terminal.say(note)

    passes = microbatch.Passes(model, objective, plan.per_process_batch, device, precision, done)
    micro, run = microbatch.choose_size(run, passes, world, compiled, sharded, resume)
    if micro < plan.per_process_batch:
        count = plan.per_process_batch // micro
        terminal.say(f"micro-batches of {micro} images: {count} of them make a process's part of a batch")

    # ------------------------------------------------------------------------------------------------- resume
    step, sums = 0, LossSums(device)
    trained_on = f"{n} images, digest {data.fingerprint()}"
    loaded = checkpoint.restore(checkpoints, objective, optimizer, world) if resume else None
    if loaded:
        step = loaded.state.step
        if world.main:
            sums = LossSums(device, loaded.state.sums, loaded.state.count)
        for problem in loaded.damaged:
            terminal.say(f"skipped a damaged checkpoint: {problem}")
        terminal.say(f"resuming from {loaded.path.name}")
        if loaded.state.trained_on != trained_on:
            terminal.say("the training images have changed since this run began: the result will not be the same")
    world.wait()
    if world.main and overwrite and not resume:  # only now that nothing can be wrong with the new run
        shutil.rmtree(out, ignore_errors=True)
    log = None
    if isinstance(terminal, Terminal):
        log = RunLog(out, terminal, step, steps, tracker.open_trackers(run, out, terminal.say))
        write_file(out / "config.yaml", config.dump(run).encode())
        write_file(out / "environment.json", json.dumps(environment(world), indent=1).encode())
        log.skipped.add(data.unreadable)
    say = log.say if log else terminal.say

    def save_checkpoint() -> None:
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

    # ------------------------------------------------------------------------------------------------- evaluation
    workers = data.workers(world.local_size)
    evaluations = {round(steps * k / run.watch.looks) for k in range(run.watch.looks + 1)} if run.watch.looks else set()
    health = HealthMonitor(out, run)

    def evaluate() -> bool:
        """Evaluate periodically, keep the best checkpoint; whether `patience` evaluations were no better."""
        is_best, out_of_patience, is_saved = False, False, False
        if sharded:
            sharding.copy_full_parameters(objective, evaluated)
        if log and evaluated:
            evaluated.to(device)
            options = InferenceOptions(device, precision, workers)
            metrics = PeriodicEvaluation(evaluated, data, run.watch, out, options).run(step, step / steps)
            if sharded:
                evaluated.to("cpu")
            log.evaluation({"step": step, "epoch": epoch_of(run, step, n)} | metrics, out / "samples")
            for message in health.changes() if not objective.labelled else ():
                log.say(message)
            is_best, out_of_patience = best.compare_to_best(log.evaluations(), run.watch)
            is_saved = (checkpoints / f"step-{step:08d}").exists()
        if run.watch.best is not None:
            is_best, out_of_patience, is_saved = world.gather((is_best, out_of_patience, is_saved))[0]
            if is_best and not is_saved:
                save_checkpoint()
            if is_best and log:
                best.write_best(checkpoints, step)
        world.wait()
        return out_of_patience

    # ------------------------------------------------------------------------------------------------- steps
    crops, crop_index = unique_crops(objective.views(run.crop))
    dataset = objective.train_dataset(data, crops, plan)
    loader = train_batches(dataset, step, steps, workers)
    timer, last_save, grad_norm = StepTimer(step), time.monotonic(), torch.zeros(())
    max_norm = 1e30 if run.optim.clip_grad is None else run.optim.clip_grad  # 1e30 clips nothing

    with log or contextlib.nullcontext(), signals() as stop:
        while step < steps:
            if step in evaluations:
                with timer.paused():
                    out_of_patience = evaluate()
                if out_of_patience:
                    save_checkpoint()
                    say(f"stopped after step {step}: {run.watch.patience} looks without a better {run.watch.best}")
                    break

            t = step / steps
            lr = warmup_cosine(run.lr, run.optim.min_lr, run.optim.warmup, t)
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * lr

            with timer.waiting_for_data():
                item = next(loader)
            done("data wait")
            if log and log.skipped.add(item["skipped"]):
                check_unreadable(run.data, [*log.skipped.reasons.items()], max(n, 100), run.images.unreadable)

            torch.manual_seed(step_seed(run.seed, step, world.rank))
            images = [to_float(view, device) for view in item["views"]]
            done("crop")
            try:
                batch = {name: images[i] for name, i in crop_index.items()}
                if objective.labelled:
                    batch["label"] = item["label"].to(device, non_blocking=True)
                batch = passes.sample(batch, t)
                done("draw")
                for start in range(0, plan.per_process_batch, micro):
                    sums.add(passes.backward(batch, t, start, micro))
            except torch.OutOfMemoryError as e:
                raise RuntimeError(microbatch.advice(step, micro, plan.per_process_batch, objective, out)) from e
            del images, batch  # before the next ones come
            is_log_step = (step + 1) % run.watch.log_every == 0 or step + 1 == steps
            if is_log_step or run.optim.clip_grad is not None:
                grad_norm = clip_grad_norm_(objective.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            done("optimiser")
            step += 1
            objective.after_step(step / steps)
            done("after_step")

            # ----------------------------------------------------------------------------------------- log
            if is_log_step:
                losses = sums.means(world)  # the only place that waits for the device
                if not math.isfinite(losses["loss"]):
                    raise Diverged(divergence(losses["loss"], step, lr, checkpoints))
                metrics = {"step": step, "epoch": epoch_of(run, step, n), "t": step / steps} | losses
                metrics |= {"lr": lr, "grad_norm": float(sharding.full_tensor(grad_norm))}
                metrics |= timer.speed(step, run.batch_size) | device_usage(device)
                if log:
                    log.interval(metrics, timer.seconds_left(step, steps))
                sums, timer = LossSums(device), StepTimer(step)

            # ----------------------------------------------------------------------------------------- save
            stopped = world.any(stop.is_set())
            if run.save.every is not None:
                is_due = step % run.save.every == 0
            else:
                is_due = is_log_step and world.any(time.monotonic() - last_save > 60 * run.save.minutes)
            if is_due or stopped or step == steps:
                with timer.paused():
                    save_checkpoint()
                last_save = time.monotonic()
            if stopped and step < steps:
                say(f"stopped by a signal after step {step}; resume with: maskery resume {out}")
                return Result(step, steps, True, log.evaluations() if log else (), True)

        if step == steps and step in evaluations:
            evaluate()
        if log:
            log.before_and_after(out / "evals")
    return Result(step, steps, False, log.evaluations() if log else (), stop.is_set())  # no signal slips through here


def resolve(run: Run, data: ImageData, device: torch.device) -> Run:
    """The run with every setting that was left to the data and the machine."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return replace(
        run,
        data=absolute(run.data),
        images=data.config,
        precision=("bf16" if bf16 else "float32") if run.precision == "auto" else run.precision,
        compile=("on" if device.type == "cuda" else "off") if run.compile == "auto" else run.compile,
    )


def data_notes(run: Run, data: ImageData) -> list[str]:
    """What is trained on and what is held out, for people."""
    n = len(data.train)
    rule = "a split of the data" if data.images.source.splits is not None else "by a hash of the name"
    rule = rule if len(data.held_out) else "too few images to hold some out"
    notes = [f"training on {n:,} images, {len(data.held_out):,} held out ({rule})"]
    if run.batch_size > n:
        notes.append(
            f"batch {run.batch_size} is larger than the {n} training images: every step sees an image "
            f"about {run.batch_size / n:.1f} times, under different crops and masks"
        )
    return notes


def model_notes(run: Run, objective: Objective, steps: int, world: World, sharded: bool) -> list[str]:
    """Method, size, length and learning rate, for people."""
    parameters = sum(p.numel() for p in objective.encoder.parameters()) / 1e6
    is_eager = run.compile == "on" and objective.no_compile_reason
    return [
        *([f"not compiled: {objective.no_compile_reason}"] if is_eager else []),
        f"{run.method}, {run.model}/{run.patch_size} at {run.size[0]} x {run.size[1]} ({parameters:.1f} M parameters), "
        f"{steps:,} steps of {run.batch_size} images, {run.precision} on {world.size} x {world.device.type}"
        + (", parameters sharded" if sharded else ""),
        f"lr {run.lr:.3g} = base lr {run.optim.base_lr:g} x batch {run.batch_size} / 256",
    ]


def divergence(loss: float, step: int, lr: float, checkpoints: Path) -> str:
    """What happened, which checkpoint is still good, and what usually helps."""
    good, _ = checkpoint.newest_good(checkpoints)
    return (
        f"the loss is {loss} at step {step} (lr {lr:.3g}); "
        f"{f'{good.name} is still good' if good else 'there is no checkpoint yet'}; "
        "a lower --optim.base-lr or --optim.clip-grad 1 usually helps"
    )


def unique_crops(views: Mapping[str, Crop]) -> tuple[list[Crop], dict[str, int]]:
    """The crops, and the index into them of each view: views that share a `Crop` object are cut once."""
    crops = list({id(crop): crop for crop in views.values()}.values())
    return crops, {name: [crop is c for c in crops].index(True) for name, crop in views.items()}


def epoch_of(run: Run, step: int, images: int) -> float:
    """Passes over the training images after `step` optimiser steps."""
    return round(step * run.batch_size / images, 4)


def step_seed(seed: int, step: int, rank: int) -> int:
    """One seed for the random choices of each step and process."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=7).digest())

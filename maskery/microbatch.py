"""Forward and backward in micro-batches: less memory, the same result. Random choices for a whole batch are sliced."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .config import Run
from .distributed import World
from .objective import Batch, Losses, Objective

LESS = "a smaller --model, --image-size or --batch-size, more processes, or --shard"


def check_batch(images: int, objective: Objective) -> None:
    """ValueError when a process's batch of so many images is no multiple of what the objective needs."""
    multiple = objective.micro_batch_multiple
    if images % multiple:
        raise ValueError(f"a process's batch of {images} images: the method needs a multiple of {multiple}")


def sizes(images: int, objective: Objective) -> list[int]:
    """The micro-batches that `auto` tries for a process's batch: all of it, then at most half of that, and so on.

    Each divides the batch and is a multiple of what the objective needs.
    """
    candidates, multiple = [images], objective.micro_batch_multiple
    while not objective.needs_whole_batch and (half := largest_divisor(candidates[-1] // 2, images, multiple)):
        candidates.append(half)
    return candidates


def largest_divisor(limit: int, images: int, multiple: int) -> int:
    """The largest divisor of `images` up to `limit` that is a multiple of `multiple`; 0 when there is none."""
    fitting = (n for n in range(min(limit, images), 0, -1) if images % n == 0 and n % multiple == 0)
    return next(fitting, 0)


def size_up_to(limit: int, images: int, objective: Objective) -> int:
    """The largest micro-batch up to `limit` for a process with so many images. ValueError when there is none."""
    if objective.needs_whole_batch and limit < images:
        raise ValueError(
            f"--micro-batch {limit} is less than a process's batch of {images} images, and this method's loss compares "
            f"all of them: at least {images}"
        )
    size = largest_divisor(limit, images, objective.micro_batch_multiple)
    if not size:
        raise ValueError(
            f"--micro-batch {limit}: no number up to that divides a process's batch of {images} images and is a "
            f"multiple of {objective.micro_batch_multiple}, which the method needs"
        )
    return size


def slice_batch(batch: Batch, start: int, size: int) -> Batch:
    """`size` images of a batch that went through `sample`, from `start` on."""
    images = next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim)
    return {name: _slice(value, start, size, images, name) for name, value in batch.items()}


def _slice(value: Any, start: int, size: int, images: int, name: str) -> Any:
    """`size` images of anything in a batch: a tensor, or a mapping, tuple, list or dataclass with tensors inside."""
    if isinstance(value, Tensor):
        if value.ndim and len(value) != images:
            raise ValueError(
                f"{name!r} in a batch of {images} images has the shape {list(value.shape)}: what `sample` adds has the "
                "images as its first dimension, or no dimension when it is for all of them"
            )
        return value.narrow(0, start, size) if value.ndim else value
    if isinstance(value, Mapping):
        return {k: _slice(v, start, size, images, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, tuple | list):
        parts = [_slice(v, start, size, images, name) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _slice(getattr(value, f.name), start, size, images, f"{name}.{f.name}") for f in fields(value)}
        return replace(value, **parts)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name!r} in a batch is a {type(value).__name__}: micro-batches cannot be sliced from that")


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes over the batch of this process."""

    model: Any  # the objective, perhaps compiled and wrapped for data parallelism
    objective: Objective
    images: int  # of this process in a batch
    device: torch.device
    precision: torch.dtype
    done: Callable[[str], None] = lambda part: None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    @torch.no_grad()
    def sample(self, images: Mapping[str, Tensor], t: float) -> Batch:
        with self.autocast():
            return self.objective.sample(dict(images), t)

    def backward(self, batch: Batch, t: float, start: int, size: int, sync: bool = True) -> Losses:
        """Forward and backward of the micro-batch that begins at image `start`.

        Processes exchange gradients only in the last one; with sharding in every one, because a process has no room for
        full gradients.
        """
        images = slice_batch(batch, start, size)
        is_local = isinstance(self.model, DistributedDataParallel) and not (sync and start + size == self.images)
        with self.model.no_sync() if is_local else contextlib.nullcontext():
            with self.autocast():
                losses = self.model(images, t)
            self.done("forward")
            (losses["loss"] * (size / self.images)).backward()
            self.done("backward")
        return losses

    def attempt(self, size: int, run: Run, compiled: bool) -> None:
        """Try micro-batches of `size` on noise, with room for the optimiser's two moments of every parameter."""
        if compiled:
            torch.compiler.reset()  # a graph a size: after eight of them it would give up compiling
        moments = [torch.empty_like(p) for p in self.objective.parameters() if p.requires_grad for _ in range(2)]
        noise = torch.rand(self.images, self.objective.encoder.config.channels, *run.size, device=self.device)
        batch = self.sample(dict.fromkeys(self.objective.views(run.crop), noise), 0.0)
        for start in range(0, self.images, size)[:2]:  # the second finds the gradients of the first in memory
            self.backward(batch, 0.0, start, size, sync=False)
        del moments

    def free(self) -> None:
        """Release the memory of an attempt."""
        self.objective.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def choose_size(run: Run, passes: Passes, world: World, compiled: bool, sharded: bool, resume: bool) -> tuple[int, Run]:
    """The size of micro-batches, and the run with it where it was searched for: resuming does not search again."""
    if sharded and run.micro_batch == "auto":
        return passes.images, run  # an attempt cannot fail on one process while others wait for its part of a layer
    if run.micro_batch != "auto" and not (resume and passes.objective.needs_whole_batch):
        return size_up_to(run.micro_batch, passes.images, passes.objective), run
    candidates = sizes(passes.images, passes.objective)
    size = largest_that_fits(candidates, lambda size: passes.attempt(size, run, compiled), world.any, passes.free)
    return size, replace(run, micro_batch=size)


def largest_that_fits(
    candidates: list[int], attempt: Callable[[int], None], any_process: Callable[[bool], bool], free: Callable[[], None]
) -> int:
    """The first candidate with which no process runs out of memory.

    attempt: forward and backward as in a step, without waiting for other processes; any_process: whether a value is
    true on any process; free: releases the memory of an attempt. ValueError when nothing fits.
    """
    for size in candidates:
        out_of_memory = False
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            out_of_memory = (
                True  # nothing more in here: the exception still holds the tensors of the frames it came through
            )
        free()
        if not any_process(out_of_memory):
            return size
    raise ValueError(
        f"out of memory with a micro-batch of {candidates[-1]}, the smallest there is; what takes less: {LESS}"
    )


def advice(step: int, size: int, images: int, objective: Objective, out: Path) -> str:
    """What to do when a micro-batch does not fit into memory during a step."""
    smaller = 0 if objective.needs_whole_batch else largest_divisor(size // 2, images, objective.micro_batch_multiple)
    less = f"maskery resume {out} --micro-batch {smaller}" if smaller else LESS
    return f"out of memory in step {step + 1} with a micro-batch of {size} images; what takes less: {less}"

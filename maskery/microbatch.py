"""Split a batch into micro-batches: less memory, the same result. Random choices for the whole batch are sliced."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .objective import Batch, Objective

LESS = "a smaller --model, --image-size or --batch-size, more processes, or --shard"


def sizes(images: int, objective: Objective) -> list[int]:
    """The micro-batches that `auto` tries for a process's batch: all of it, then at most half of that, and so on.

    Each divides the batch and is a multiple of what the objective needs. ValueError when even the batch is none.
    """
    multiple = objective.micro_batch_multiple
    if images % multiple:
        raise ValueError(f"a process's batch of {images} images: the method needs a multiple of {multiple}")
    candidates = [images]
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

"""A batch in micro-batches: less memory, the same result. What was drawn for the whole batch is cut, not redrawn."""

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

    Each divides the batch and is a multiple of `objective.group`. ValueError when even the batch is none.
    """
    if images % objective.group:
        raise ValueError(f"a process's batch of {images} images: the method needs a multiple of {objective.group}")
    found = [images]
    while not objective.whole and (half := at_most(found[-1] // 2, images, objective.group)):
        found.append(half)
    return found


def at_most(limit: int, images: int, group: int) -> int:
    """The largest divisor of `images` up to `limit` that is a multiple of `group`; 0 when there is none."""
    fitting = (n for n in range(min(limit, images), 0, -1) if images % n == 0 and n % group == 0)
    return next(fitting, 0)


def asked_for(limit: int, images: int, objective: Objective) -> int:
    """The largest micro-batch up to `limit` for a process with so many images. ValueError: there is none."""
    if objective.whole and limit < images:
        raise ValueError(
            f"--micro-batch {limit} is less than a process's batch of {images} images, and this method's loss compares "
            f"all of them: at least {images}"
        )
    found = at_most(limit, images, objective.group)
    if not found:
        raise ValueError(
            f"--micro-batch {limit}: no number up to that divides a process's batch of {images} images and is a "
            f"multiple of {objective.group}, which the method needs"
        )
    return found


def part(batch: Batch, start: int, size: int) -> Batch:
    """`size` images of a batch that `draw` has seen, from `start` on."""
    images = next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim)
    return {name: _part(value, start, size, images, name) for name, value in batch.items()}


def _part(value: Any, start: int, size: int, images: int, name: str) -> Any:
    """`size` images of anything in a batch: a tensor, or a mapping, tuple, list or dataclass with tensors inside."""
    if isinstance(value, Tensor):
        if value.ndim and len(value) != images:
            raise ValueError(
                f"{name!r} in a batch of {images} images has the shape {list(value.shape)}: what `draw` adds has the "
                "images as its first dimension, or no dimension when it is for all of them"
            )
        return value.narrow(0, start, size) if value.ndim else value
    if isinstance(value, Mapping):
        return {k: _part(v, start, size, images, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, tuple | list):
        cut = [_part(v, start, size, images, name) for v in value]
        return type(value)(*cut) if hasattr(value, "_fields") else type(value)(cut)
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: _part(getattr(value, f.name), start, size, images, f"{name}.{f.name}") for f in fields(value)}
        return replace(value, **own)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name!r} in a batch is a {type(value).__name__}: micro-batches cannot be cut from that")


def largest_that_fits(
    candidates: list[int], attempt: Callable[[int], None], somewhere: Callable[[bool], bool], forget: Callable[[], None]
) -> int:
    """The first candidate that no process runs out of memory with.

    attempt: a forward and backward, as in a step, that waits for no other process; somewhere: true everywhere when it
    is true for one process; forget: frees what an attempt has left. ValueError when nothing fits.
    """
    for size in candidates:
        full = False
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            full = True  # nothing more in here: the exception still holds the tensors of the frames it came through
        forget()
        if not somewhere(full):
            return size
    raise ValueError(
        f"out of memory with a micro-batch of {candidates[-1]}, the smallest there is; what takes less: {LESS}"
    )


def advice(step: int, size: int, images: int, objective: Objective, out: Path) -> str:
    """What to do when a micro-batch that fitted, or was asked for, does not fit in a step."""
    smaller = 0 if objective.whole else at_most(size // 2, images, objective.group)
    less = f"maskery resume {out} --micro-batch {smaller}" if smaller else LESS
    return f"out of memory in step {step + 1} with a micro-batch of {size} images; what takes less: {less}"

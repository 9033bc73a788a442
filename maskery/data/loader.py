"""Batches from loader processes."""

import copy
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .eval_dataset import EvalDataset
from .train_dataset import PIECE, TrainDataset
from .transfer import TransferBuffers, keep_freed_memory, run_ahead
from .views import CPU, join_views, likely_bytes

T = TypeVar("T")
PREFETCH = 2  # pieces that each worker has ready or at work


def train_batches(dataset: TrainDataset, start_step: int, steps: int, workers: int) -> Iterator[dict[str, Any]]:
    """Yield this process's batches of the optimiser steps start_step .. steps - 1, in order."""
    plan, count = dataset.plan, dataset.plan.pieces
    pieces = range(start_step * count, steps * count)
    if dataset.resized_on_gpu and workers and TransferBuffers.possible():
        # A piece is copied out of its buffer before the next one is asked for: so many can be filled meanwhile.
        size = min(PIECE, plan.per_process_batch) * likely_bytes(dataset.format)
        buffers = TransferBuffers(PREFETCH * workers + 1, dataset.sampler.views, size)
        dataset = copy.copy(dataset)
        dataset.buffers = buffers
        numbered = zip(pieces, loader(dataset, pieces, workers, CPU), strict=True)
        items = (item | {"views": buffers.emptied(k, item["views"])} for k, item in numbered)
        yield from run_ahead(lambda: join_pieces([next(items) for _ in range(count)]), steps - start_step)
    else:
        items = iter(loader(dataset, pieces, workers, plan.device))
        for _ in range(start_step, steps):
            yield join_pieces([next(items) for _ in range(count)])


def eval_batches(dataset: EvalDataset, workers: int = 0) -> DataLoader[dict[str, Any]]:
    """Load all items of an evaluation dataset, in order."""
    return loader(dataset, range(len(dataset)), workers, dataset.device)


def join_pieces(parts: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {
        "views": [join_views(views) for views in zip(*(part["views"] for part in parts), strict=True)],
        "skipped": [skip for part in parts for skip in part["skipped"]],
    }
    labels = [part["label"] for part in parts if "label" in part]
    if not labels:
        return batch
    return batch | {"label": torch.cat(labels) if isinstance(labels[0], Tensor) else type(labels[0]).cat(labels)}


def loader(dataset: Dataset[T], sampler: Iterable[int], workers: int, device: torch.device) -> DataLoader[T]:
    """Load these items with `workers` processes (0: in this one), in pinned memory for a GPU."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=begin_worker if workers else None,
    )


def begin_worker(worker: int) -> None:
    """Prepare a loader process: one thread, no Ctrl-C so that the loop can finish its step, ended with its parent."""
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """Exit when the parent is gone: workers of a killed process would wait for each other's pipes for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)

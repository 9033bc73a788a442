"""How a classifier's error grows when its images are corrupted, or come from somewhere else.

`robustness` makes the corrupted images itself, `imagenet_c_errors` and `folder_error` read published test sets.

b images of a batch, S severities, C channels, h x w pixels of the network's input, M classes
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.crops import CenterCrop
from ..data.eval_dataset import EvalDataset
from ..data.images import Images
from ..data.loader import begin_worker
from ..data.sources.names import hashes
from ..data.sources.open import open_source
from ..data.views import to_float
from . import corruptions
from .corruptions import BENCHMARK, EXTRA, SEVERITIES, corrupt
from .errors import Errors
from .imagenet_sets import imagenet_c, subset
from .metrics import refuse_nan

Classify = Callable[[Tensor], Tensor]  # images [b, C, h, w] in [0, 1] on the device -> logits [b, M]
Progress = Callable[[int, int], None]


class Corrupted(Dataset[dict[str, Any]]):
    """Item k: a batch under one corruption, {"images" [S, b, C, h, w] uint8, "indices" [b], "name", "skipped"}.

    Corruption after corruption ("" first: S = 1, the clean images), so that only one batch is ever held.
    """

    def __init__(self, clean: EvalDataset, names: Sequence[str], seed: int):
        self.clean, self.names, self.seed = clean, ("", *names), seed

    def __len__(self) -> int:
        return len(self.names) * len(self.clean)

    def __getitem__(self, k: int) -> dict[str, Any]:
        name, batch = self.names[k // len(self.clean)], self.clean[k % len(self.clean)]
        if batch["images"] is None:
            return batch | {"name": name}
        plain = batch["images"][None]
        return batch | {"name": name, "images": self._corrupted(plain[0], batch["indices"], name) if name else plain}

    def _corrupted(self, images: Tensor, indices: np.ndarray, name: str) -> Tensor:
        names = self.clean.images.source.names
        keys = hashes([names[int(i)] for i in indices]).tolist()
        pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
        out = [
            [torch.from_numpy(corrupt(p, name, s, self.seed, key)) for p, key in zip(pictures, keys, strict=True)]
            for s in SEVERITIES
        ]
        return torch.stack([torch.stack(row).permute(0, 3, 1, 2) for row in out])


def robustness(
    classify: Classify,
    images: Images,
    indices: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    *,
    names: Sequence[str] = (*BENCHMARK, *EXTRA),
    share: float = 1.0,
    seed: int = 0,
    batch: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> Errors:
    """Errors on `indices` (images with labels) as they are, and under `names` at five severities, made on the fly.

    Images are cut to the network's input `size` first, as for ImageNet-C, and corrupted then; `share` of the short side
    is what the cut keeps (0.875: resize to 256, cut 224). The same seed gives the same pixels, whatever the batches and
    workers. ValueError for images that corruptions are not defined for, and for NaN logits.
    """
    corruptions.check(*size, images.channels, images.bits)
    labels = images.source.labels
    assert labels is not None
    wrong = {name: np.zeros(1 if not name else len(SEVERITIES), np.int64) for name in ("", *names)}
    seen, skipped = dict.fromkeys(wrong, 0), []
    data = Corrupted(EvalDataset(images, indices, CenterCrop(size, share), batch), names, seed)
    with corruptions.one_thread():
        for done, part in enumerate(_loader(data, workers), 1):
            if not part["name"]:
                skipped += part["skipped"]
            if part["images"] is not None:
                truth = torch.from_numpy(labels[np.asarray(part["indices"])])
                seen[part["name"]] += len(truth)
                for s, view in enumerate(part["images"]):
                    wrong[part["name"]][s] += int((_predicted(classify, view, device) != truth).sum())
            if progress:
                progress(done, len(data))
    if not seen[""]:
        raise ValueError(f"{images.source.where}: none of the {len(indices)} images can be read")
    shares = {name: wrong[name] / seen[name] for name in wrong}
    by = {name: dict(zip(SEVERITIES, shares[name].tolist(), strict=True)) for name in names}
    return Errors(float(shares[""][0]), by, seen[""], skipped)


def folder_error(
    classify: Classify,
    where: Path,
    classes: Sequence[str],
    size: tuple[int, int],
    device: torch.device,
    *,
    channels: int = 3,
    share: float = 0.875,
    batch: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[float, int, str]:
    """(error, images, what was recognised) on a folder of WordNet-named classes: ImageNet-A, -R, -Sketch, or one of -C.

    The classifier (of `classes`) may only choose among the folder's classes that it knows; images of others are left
    out, and the note says so.
    """
    source = open_source(where)
    if source.labels is None:
        raise ValueError(f"{where}: no class folders: {'; '.join(source.notes)}")
    shared = subset(source.classes, classes, where)
    target = shared.position[source.labels]
    images = Images(source, channels=channels, bits=8, pages="first", min_side=2 * max(size))
    wrong = seen = 0
    data = EvalDataset(images, np.flatnonzero(target >= 0), CenterCrop(size, share), batch)
    loader = _loader(data, workers)
    for done, part in enumerate(loader, 1):
        if part["images"] is not None:
            view = part["images"]
            truth = torch.from_numpy(target[np.asarray(part["indices"])])
            found = _predicted(lambda x: shared.logits(classify(x)), view, device)
            wrong, seen = wrong + int((found != truth).sum()), seen + len(truth)
        if progress:
            progress(done, len(loader))
    if not seen:
        raise ValueError(f"{where}: none of its images can be read")
    return wrong / seen, seen, shared.note


def imagenet_c_errors(
    classify: Classify,
    root: Path,
    classes: Sequence[str],
    size: tuple[int, int],
    device: torch.device,
    *,
    clean: float | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Errors, str]:
    """Errors on ImageNet-C's own files, which published numbers are made with; `clean` is the error on ImageNet itself.

    The files are 224 pixels already: nothing is cut away at that size. What is not there is left out.
    """
    folders = imagenet_c(root)
    by: dict[str, dict[int, float]] = {}
    images, note = 0, ""
    for done, ((name, severity), at) in enumerate(folders.items(), 1):
        error, images, note = folder_error(classify, at, classes, size, device, share=1.0, workers=workers, **options)
        by.setdefault(name, {})[severity] = error
        if progress:
            progress(done, len(folders))
    return Errors(clean, by, images), note


def _loader(data: Dataset[dict[str, Any]], workers: int) -> DataLoader[dict[str, Any]]:
    begin = begin_worker if workers else None
    return DataLoader(data, batch_size=None, num_workers=workers, worker_init_fn=begin)


@torch.no_grad()
def _predicted(classify: Classify, view: Tensor, device: torch.device) -> Tensor:
    logits = classify(to_float(view, device))
    refuse_nan(logits, "logits")
    return logits.argmax(1).cpu()

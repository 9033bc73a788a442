"""How a classifier's error grows when its images are corrupted, or come from somewhere else.

Two summaries, never mixed: `mean_error` is the plain mean over corruptions and severities; `mce` (Hendrycks &
Dietterich 2019) divides the error under each corruption by AlexNet's on ImageNet-C, so 1 is "as bad as AlexNet".

b images of a batch, S severities, C channels, h x w pixels of the network's input, M classes
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.crops import CenterCrop
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.loader import begin_worker
from ..data.sources.names import hashes
from ..data.sources.open import open_source
from ..data.views import to_float
from .corruptions import BENCHMARK, EXTRA, SEVERITIES, check_corruptible, corrupt, opencv_single_thread
from .imagenet_sets import imagenet_c_folders, shared_classes
from .inference_options import InferenceOptions
from .metrics import check_finite

# AlexNet's error on ImageNet-C, mean over severities, with the digits that public evaluation code has: mmpretrain's
# CorruptionError, Rusak et al. 2020 (game-of-noise). On clean images 43.5 %, as the paper rounds it.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.435
SUMMARIES = {
    "mean_error": "mean error over the 15 corruptions and 5 severities, as it is",
    "mean_error_extra": "mean error over the 4 extra corruptions, which are in no other number",
    "mce": "mCE: the same, each corruption relative to AlexNet's error on ImageNet-C",
    "relative_mce": "relative mCE: what corruption adds to the clean error, relative to AlexNet's",
}


@dataclass(frozen=True)
class ImageClassifier:
    """A classifier as it is evaluated."""

    classify: Callable[[Tensor], Tensor]  # images [b, C, h, w] in [0, 1] on the device -> logits [b, M]
    classes: tuple[str, ...]
    size: tuple[int, int]  # (height, width) of the input
    crop_fraction: float = 1.0  # of the short side that the centre crop keeps; 0.875: resized to 256, cut 224
    channels: int = 3

    def predict(self, views: Tensor, device: torch.device) -> Tensor:
        """Most probable class [b] of views. ValueError for NaN logits."""
        with torch.no_grad():
            logits = self.classify(to_float(views, device))
        check_finite(logits, "logits")
        return logits.argmax(1).cpu()

    def crops(self, images: Images, indices: np.ndarray, batch: int) -> EvalDataset:
        return EvalDataset(images, indices, CenterCrop(self.size, self.crop_fraction), batch)


@dataclass(frozen=True)
class Errors:
    """Fractions of images that were taken for another class."""

    clean: float | None  # None: not measured
    by_corruption: Mapping[str, Mapping[int, float]]  # corruption -> severity -> error
    images: int
    skipped: Skips = field(default_factory=list)

    def complete(self, names: Sequence[str]) -> bool:
        """Whether these corruptions were measured at all severities."""
        return all(set(self.by_corruption.get(name, ())) == set(SEVERITIES) for name in names)

    def over_severities(self, name: str) -> float:
        return fmean(self.by_corruption[name].values())

    def mean(self, names: Sequence[str]) -> float | None:
        """Plain mean over these corruptions and all severities; None when one is missing."""
        return fmean(map(self.over_severities, names)) if self.complete(names) else None

    @property
    def mce(self) -> float | None:
        """Mean over the 15 corruptions of error / AlexNet's error; None when one is missing."""
        if not self.complete(BENCHMARK):
            return None
        return fmean(self.over_severities(name) / ALEXNET[name] for name in BENCHMARK)

    @property
    def relative_mce(self) -> float | None:
        """The same of what corruption adds to the clean error: 1 is "loses as much as AlexNet does"."""
        if self.clean is None or not self.complete(BENCHMARK):
            return None
        return fmean((self.over_severities(name) - self.clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name in BENCHMARK)

    def numbers(self) -> dict[str, float]:
        """All that is defined, by name; lower is better."""
        summaries = {
            "clean_error": self.clean,
            "mean_error": self.mean(BENCHMARK),
            "mean_error_extra": self.mean(EXTRA),
            "mce": self.mce,
            "relative_mce": self.relative_mce,
        }
        each = {f"error_{name}": self.over_severities(name) for name in self.by_corruption if self.complete([name])}
        return {name: value for name, value in summaries.items() if value is not None} | each

    def table(self) -> dict[str, dict[str, float]]:
        """All errors for a file."""
        return {name: {str(s): e for s, e in errors.items()} for name, errors in self.by_corruption.items()}

    def lines(self) -> list[str]:
        """A table for a console, and what each summary is."""
        width = max(map(len, (*self.by_corruption, "mean of the 15"))) + 2
        text = [] if self.clean is None else [f"{'clean':{width}}{self.clean:>7.1%}"]
        text.append(" " * width + "".join(f"{severity:>8}" for severity in SEVERITIES) + "    mean")
        for name, errors in self.by_corruption.items():
            cells = "".join(f"{errors[s]:>8.1%}" if s in errors else f"{'-':>8}" for s in SEVERITIES)
            extra = "  (extra)" if name in EXTRA else ""
            text.append(f"{name:{width}}{cells}{self.over_severities(name):>8.1%}{extra}")
        numbers = self.numbers()
        return [*text, *(f"{numbers[key]:7.1%}  {words}" for key, words in SUMMARIES.items() if key in numbers)]


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
        views = batch["images"]
        return batch | {"name": name, "images": self._corrupt(views, batch["indices"], name) if name else views[None]}

    def _corrupt(self, views: Tensor, indices: np.ndarray, name: str) -> Tensor:
        names = self.clean.images.source.names
        keys = hashes([names[int(i)] for i in indices]).tolist()
        pictures = [view.permute(1, 2, 0).contiguous().numpy() for view in views]
        corrupted = [
            [torch.from_numpy(corrupt(p, name, s, self.seed, key)) for p, key in zip(pictures, keys, strict=True)]
            for s in SEVERITIES
        ]
        return torch.stack([torch.stack(row).permute(0, 3, 1, 2) for row in corrupted])


def corruption_errors(
    classifier: ImageClassifier,
    images: Images,
    indices: np.ndarray,
    corruptions: Sequence[str],
    seed: int,
    options: InferenceOptions,
) -> Errors:
    """Errors on `indices` (images with labels) as they are, and under corruptions at five severities, made on the fly.

    Images are cut to the network's input first, as for ImageNet-C, and corrupted then. The same seed gives the same
    pixels, whatever the batches and workers. ValueError for images that corruptions are not defined for, and for NaN.
    """
    check_corruptible(*classifier.size, images.channels, images.bits)
    labels = images.source.labels
    assert labels is not None
    wrong = {name: np.zeros(len(SEVERITIES) if name else 1, np.int64) for name in ("", *corruptions)}
    seen, skipped = dict.fromkeys(wrong, 0), []
    data = Corrupted(classifier.crops(images, indices, options.batch_size or 32), corruptions, seed)
    with opencv_single_thread():
        for part in _batches(data, options):
            if not part["name"]:
                skipped += part["skipped"]
            if part["images"] is not None:
                truth = torch.from_numpy(labels[np.asarray(part["indices"])])
                seen[part["name"]] += len(truth)
                for s, views in enumerate(part["images"]):
                    wrong[part["name"]][s] += int((classifier.predict(views, options.device) != truth).sum())
    if not seen[""]:
        raise ValueError(f"{images.source.where}: none of the {len(indices)} images can be read")
    errors = {name: wrong[name] / seen[name] for name in wrong}
    by_corruption = {name: dict(zip(SEVERITIES, errors[name].tolist(), strict=True)) for name in corruptions}
    return Errors(float(errors[""][0]), by_corruption, seen[""], skipped)


@dataclass(frozen=True)
class FolderError:
    error: float
    images: int
    note: str  # which set was recognised, and what was left out


def folder_error(classifier: ImageClassifier, where: Path, options: InferenceOptions) -> FolderError:
    """Error on a folder of WordNet-named classes: ImageNet-A, -R, -Sketch, or one of -C.

    The classifier may only choose among the folder's classes that it knows; images of other classes are left out.
    """
    source = open_source(where)
    if source.labels is None:
        raise ValueError(f"{where}: no class folders: {'; '.join(source.notes)}")
    shared = shared_classes(source.classes, classifier.classes, where)
    target = shared.position[source.labels]
    images = Images(source, channels=classifier.channels, bits=8, pages="first", min_side=2 * max(classifier.size))
    restricted = replace(classifier, classify=lambda x: shared.logits(classifier.classify(x)))
    wrong = seen = 0
    for part in _batches(restricted.crops(images, np.flatnonzero(target >= 0), options.batch_size or 64), options):
        if part["images"] is not None:
            truth = torch.from_numpy(target[np.asarray(part["indices"])])
            wrong += int((restricted.predict(part["images"], options.device) != truth).sum())
            seen += len(truth)
    if not seen:
        raise ValueError(f"{where}: none of its images can be read")
    return FolderError(wrong / seen, seen, shared.note)


def imagenet_c_errors(
    classifier: ImageClassifier, root: Path, clean: float | None, options: InferenceOptions
) -> tuple[Errors, str]:
    """Errors on ImageNet-C's own files, which published numbers are made with, and a note on its classes.

    `clean` is the error on ImageNet itself. The files are 224 pixels already: nothing is cut away at that size. Folders
    that do not exist are left out.
    """
    folders, whole = imagenet_c_folders(root), replace(classifier, crop_fraction=1.0)
    by_corruption: dict[str, dict[int, float]] = {}
    images, note = 0, ""
    for done, ((name, severity), folder) in enumerate(folders.items(), 1):
        result = folder_error(whole, folder, replace(options, progress=None))
        by_corruption.setdefault(name, {})[severity] = result.error
        images, note = result.images, result.note
        options.tick(done, len(folders))
    return Errors(clean, by_corruption, images), note


def _batches(data: Dataset[dict[str, Any]], options: InferenceOptions) -> Iterator[dict[str, Any]]:
    """Yield all items, made by worker processes, and report progress."""
    begin = begin_worker if options.workers else None
    loader = DataLoader(data, batch_size=None, num_workers=options.workers, worker_init_fn=begin)
    for done, part in enumerate(loader, 1):
        yield part
        options.tick(done, len(loader))

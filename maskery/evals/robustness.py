"""How a classifier's error grows when its images are corrupted, or come from somewhere else.

Published test sets of ImageNet are folders of images named by WordNet ids (n01440764), and so are the classes: nothing
else is needed to find the 200 classes of ImageNet-A and -R among the 1000. The lists of ids, which only serve to
recognise a set, come with timm.

Two summaries, never mixed: `mean_error` is the plain mean over corruptions and severities; `mce` (Hendrycks &
Dietterich 2019) divides the error under each corruption by AlexNet's on ImageNet-C, so 1 is "as bad as AlexNet".

b images of a batch, S severities, C channels, h x w pixels of the network's input, M classes
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.crops import CenterCrop
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.loader import loader
from ..data.sources.names import hashes
from ..data.sources.open import open_source
from ..data.views import to_float
from ..terminal import no_progress
from .classify import image_logits
from .corruptions import BENCHMARK, EXTRA, SEVERITIES, check_corruptible, corrupt, opencv_single_thread
from .eval_pass import CPU, EvalPass, InferenceOptions
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
LISTS = {
    "ImageNet-A": "imagenet_a_synsets.txt",  # Hendrycks et al. 2021, Natural adversarial examples
    "ImageNet-R": "imagenet_r_synsets.txt",  # Hendrycks et al. 2021, The many faces of robustness
    "ImageNet": "imagenet_synsets.txt",  # all 1000, in the order of every ImageNet-1k classifier; ImageNet-Sketch's too
}
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

    def numbers(self) -> dict[str, float]:
        """Summaries and single corruptions, as far as all five severities were measured; lower is better."""
        clean, complete = self.clean, {n: e for n, e in self.by_corruption.items() if set(e) == set(SEVERITIES)}
        mean = {name: fmean(errors.values()) for name, errors in complete.items()}
        summaries = {} if clean is None else {"clean_error": clean}
        for summary, names in (("mean_error", BENCHMARK), ("mean_error_extra", EXTRA)):
            if mean.keys() >= {*names}:
                summaries[summary] = fmean(mean[name] for name in names)
        if mean.keys() >= {*BENCHMARK}:
            summaries["mce"] = fmean(mean[name] / ALEXNET[name] for name in BENCHMARK)
            if clean is not None:  # 1: it loses as much as AlexNet does
                added = ((mean[name] - clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name in BENCHMARK)
                summaries["relative_mce"] = fmean(added)
        return summaries | {f"error_{name}": value for name, value in mean.items()}

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
            text.append(f"{name:{width}}{cells}{fmean(errors.values()):>8.1%}{extra}")
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
    wrong: dict[str, Any] = dict.fromkeys(("", *corruptions), 0)  # [severities] each
    seen, skipped = dict.fromkeys(wrong, 0), []
    data = Corrupted(classifier.crops(images, indices, options.batch_size or 32), corruptions, seed)
    with opencv_single_thread():
        for done, part in enumerate(loader(data, range(len(data)), options.workers, CPU), 1):
            if not part["name"]:
                skipped += part["skipped"]
            if part["images"] is not None:
                truth = torch.from_numpy(labels[np.asarray(part["indices"])])
                seen[part["name"]] += len(truth)
                predicted = torch.stack([classifier.predict(views, options.device) for views in part["images"]])
                wrong[part["name"]] += (predicted != truth).sum(1).numpy()
            options.progress(done, len(data))
    if not seen[""]:
        raise ValueError(f"{images.source.where}: none of the {len(indices)} images can be read")
    errors = {name: wrong[name] / seen[name] for name in wrong}
    by_corruption = {name: dict(zip(SEVERITIES, errors[name].tolist(), strict=True)) for name in corruptions}
    return Errors(float(errors[""][0]), by_corruption, seen[""], skipped)


# ----------------------------------------------------------------------------------------------- published test sets
@cache
def ids_of(name: str) -> tuple[str, ...]:
    """The WordNet ids of a set in `LISTS`."""
    timm = find_spec("timm")  # where it lies; importing it takes seconds
    assert timm is not None
    assert timm.origin is not None
    return tuple((Path(timm.origin).parent / "data" / "_info" / LISTS[name]).read_text().split())


def wordnet_ids(classes: Sequence[str]) -> tuple[str, ...]:
    """WordNet ids of a classifier's classes: its own names, or ImageNet-1k's when it has 1000 that are just numbers.

    ValueError when the classes are neither, so that images of ImageNet cannot be compared with them.
    """
    if all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return tuple(classes)
    if list(classes) == [str(i) for i in range(1000)]:
        return ids_of("ImageNet")
    example = next(name for name in classes if not re.fullmatch(r"n\d{8}", name))
    raise ValueError(
        f"the classifier's classes are not named by WordNet ids (n01440764, ...), one is {example!r}: ImageNet's test "
        "sets cannot be matched with them"
    )


def shared_classes(
    folders: Sequence[str], classes: Sequence[str], where: str | Path
) -> tuple[np.ndarray, np.ndarray, str]:
    """Match the class folders at `where` with the classes of a classifier. ValueError when they share none.

    Returns the columns [S] of the classifier's logits in the order of the folders, the place of each folder among them
    (-1: the classifier does not know it), and a note: what was recognised, and what is left out.
    """
    known = {name: i for i, name in enumerate(wordnet_ids(classes))}
    shared = [name for name in folders if name in known]
    if not shared:
        raise ValueError(f"{where}: none of its {len(folders)} classes is one of the classifier's {len(classes)}")
    note = f"{recognised(folders) or 'a set of its own'}: {len(shared)} of its {len(folders)} classes"
    note += f" among the classifier's {len(classes)}; the classifier chooses among these {len(shared)}"
    if len(shared) < len(folders):
        note += "; images of other classes are left out, so the number cannot be compared with published ones"
    position = [shared.index(name) if name in known else -1 for name in folders]
    return np.array([known[name] for name in shared]), np.array(position), note


def recognised(folders: Sequence[str]) -> str | None:
    """ "ImageNet-A", "ImageNet-R" or "ImageNet" when these are exactly its classes."""
    return next((name for name in LISTS if set(ids_of(name)) == set(folders)), None)


def imagenet_c_folders(root: Path) -> dict[tuple[str, int], Path]:
    """{(corruption, severity): folder of class folders} below `root`, as ImageNet-C is unpacked.

    A corruption lies in `root` or one folder deeper (root/blur/defocus_blur/3). ValueError when there is none.
    """
    folders: dict[tuple[str, int], Path] = {}
    for name in (*BENCHMARK, *EXTRA):
        for at in (root / name, *sorted(root.glob(f"*/{name}"))):
            for severity in SEVERITIES:
                if (at / str(severity)).is_dir():
                    folders.setdefault((name, severity), at / str(severity))
    if not folders:
        raise ValueError(
            f"{root}: not ImageNet-C: there is no folder like {BENCHMARK[0]}/1 in it (a corruption, then a severity)"
        )
    return folders


def folder_error(classifier: ImageClassifier, where: Path, options: InferenceOptions) -> tuple[float, int, str]:
    """Error on a folder of WordNet-named classes (ImageNet-A, -R, -Sketch, or one of -C), images, note on its classes.

    The classifier may only choose among the folder's classes that it knows; images of other classes are left out.
    """
    source = open_source(where)
    if source.labels is None:
        raise ValueError(f"{where}: no class folders: {'; '.join(source.notes)}")
    columns, position, note = shared_classes(source.classes, classifier.classes, where)
    target = position[source.labels]
    images = Images(source, channels=classifier.channels, bits=8, pages="first", min_side=2 * max(classifier.size))
    crops = EvalPass(classifier.crops(images, np.flatnonzero(target >= 0), options.batch_size or 64), options)
    predicted = image_logits(lambda x: classifier.classify(x)[:, columns], crops).argmax(1).numpy()
    return float((predicted != target[crops.indices]).mean()), len(predicted), note


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
        error, images, note = folder_error(whole, folder, replace(options, progress=no_progress))
        by_corruption.setdefault(name, {})[severity] = error
        options.progress(done, len(folders))
    return Errors(clean, by_corruption, images), note

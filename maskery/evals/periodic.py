"""Periodic evaluation while a run goes on: held-out losses under fixed masks, features, kNN, a strip of pictures.

Images, crops and masks are the same every time, so that numbers and pictures of different steps can be compared.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import WatchConfig
from ..data.crops import CenterCrop, Crop
from ..data.dataset import ImageData, spread
from ..data.eval_dataset import EvalDataset
from ..data.loader import eval_batches
from ..data.views import to_float
from ..nn.baselines import image_facts
from ..objective import Batch, Objective
from ..outputs import write_file
from ..pictures.strip import strip
from .eval_pass import InferenceOptions, eval_mode
from .features import effective_rank, feature_spread, features
from .knn import knn_accuracies

MASK_SEED = 20_220_619
BASELINES = "baselines.json"  # in the run directory


@dataclass(frozen=True)
class PeriodicEvaluation:
    objective: Objective
    data: ImageData
    watch: WatchConfig
    out: Path  # the run directory
    options: InferenceOptions  # on the objective's device

    @torch.no_grad()
    def run(self, step: int, t: float) -> dict[str, float]:
        """Measure the network as it is now; write `samples/step-XXXXXXXX.png`, and once `baselines.json`."""
        objective, data, watch = self.objective, self.data, self.watch
        with eval_mode(objective):
            losses = self._held_out_losses(t) if len(data.held_out) and not objective.labelled else {}
            if watch.pictures:
                self._write_strip(step, t)
            if objective.labelled:
                return objective.validate(data, watch.held_out, self.options.precision, self.options.workers)
            return losses | self._feature_metrics()

    def _held_out_losses(self, t: float) -> dict[str, float]:
        """Mean losses of held-out images; the first time also `baselines.json`."""
        objective, device, size = self.objective, self.options.device, self.objective.encoder.config.image_size
        totals: Counter[str] = Counter()
        baselines: Counter[tuple[str, str]] = Counter()
        count, first = 0, not (self.out / BASELINES).exists()
        indices = spread(self.data.held_out, self.watch.held_out)
        torch.manual_seed(MASK_SEED)
        dataset = EvalDataset(self.data.images, indices, CenterCrop(size), 64, device)
        for part in eval_batches(dataset, self.options.workers):
            if part["images"] is None:
                continue
            image = whole_groups(to_float(part["images"], device), objective.micro_batch_multiple)
            with self.options.autocast():
                batch = self._sample(image, {}, t)  # masks depend on the whole batch, so its size is fixed too
                losses = objective(batch, t)
            totals.update({f"held_out_{name}": float(value) * len(image) for name, value in losses.items()})
            baselines.update(_baseline_sums(objective, image, batch) if first else {})
            count += len(image)
        if first and count:
            facts = _baseline_means(baselines, count) | {"held_out": len(self.data.held_out)}
            write_file(self.out / BASELINES, json.dumps(facts, indent=1).encode())
        return {name: total / count for name, total in totals.items()}

    def _write_strip(self, step: int, t: float) -> None:
        """Pictures of the same few images."""
        data, device, size = self.data, self.options.device, self.objective.encoder.config.image_size
        shown = spread(data.held_out if len(data.held_out) else data.train, self.watch.pictures)
        part = next(iter(eval_batches(EvalDataset(data.images, shown, CenterCrop(size), len(shown), device))))
        if part["images"] is None:
            return
        torch.manual_seed(MASK_SEED)
        image = whole_groups(to_float(part["images"], device), self.objective.micro_batch_multiple)
        targets = self.objective.picture_targets(data, part["indices"][: len(image)])
        which = "held-out images" if len(data.held_out) else "training images (nothing is held out)"
        title = f"step {step}: {which}, always the same images and draws"
        samples = self.out / "samples"
        samples.mkdir(exist_ok=True)
        strip(self.objective.picture(self._sample(image, targets, t)), samples / f"step-{step:08d}.png", title)

    def _sample(self, image: Tensor, targets: Batch, t: float) -> Batch:
        """A batch in which all views are the same images."""
        return self.objective.sample(dict.fromkeys(self.objective.views(Crop()), image) | targets, t)

    def _feature_metrics(self) -> dict[str, float]:
        """Rank and spread of held-out features; kNN accuracy where there are labels."""
        data, watch, encoder = self.data, self.watch, self.objective.encoder
        if data.labels is not None:
            train, held_out = (x[data.labels[x] >= 0] for x in (data.train, data.held_out))
            train, held_out = spread(train, watch.knn_bank), spread(held_out, watch.knn_queries)
            if len(train) and len(held_out):
                bank, queries = (features(encoder, data.images, part, self.options) for part in (train, held_out))
                numbers = knn_accuracies(bank, queries, data.labels, len(data.classes))
                return numbers | _rank_metrics(queries.mean_patch)
        if len(data.held_out) < 2 or watch.held_out < 2:
            return {}
        shown = spread(data.held_out, watch.held_out)
        return _rank_metrics(features(encoder, data.images, shown, self.options).mean_patch)


def _rank_metrics(mean_patch: Tensor) -> dict[str, float]:
    return {"effective_rank": effective_rank(mean_patch), "feature_spread": feature_spread(mean_patch)}


def _baseline_sums(objective: Objective, image: Tensor, batch: Batch) -> dict[tuple[str, str], float]:
    """Losses of trivial baselines on a batch, and under "" statistics of its images, times the number of images."""
    facts = image_facts(objective.encoder.normalise(image), objective.encoder.config.patch_size)
    by_loss = objective.trivial_baselines(batch) | {"": facts}
    return {(loss, name): v * len(image) for loss, by_name in by_loss.items() for name, v in by_name.items()}


def _baseline_means(sums: Counter[tuple[str, str]], count: int) -> dict[str, Any]:
    """Means over `count` images: {"images", "guesses": loss -> baseline -> value, and statistics of the images}."""
    means: dict[str, dict[str, float]] = {}
    for (loss, name), total in sums.items():
        means.setdefault(loss, {})[name] = total / count
    facts = means.pop("")
    return {"images": count} | ({"guesses": means} if means else {}) | facts


def whole_groups(image: Tensor, group: int) -> Tensor:
    """A batch [B, C, H, W] cut to a multiple of `group` images, or filled up from its start when it has too few."""
    count = max(1, len(image) // group) * group
    return image[torch.arange(count, device=image.device) % len(image)]

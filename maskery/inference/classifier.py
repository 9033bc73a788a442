"""A trained classifier: its network, what the answers mean, and predictions for images of any kind.

B images, C channels, h x w pixels of the input, M classes
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..config import ImagesConfig
from ..nn.linear_classifier import LinearClassifier, Pool, probabilities
from ..nn.vit import ViT
from ..runs.directory import is_run, open_run
from ..tasks import TASKS
from ..tasks.checkpoint import load_objective
from ..tasks.classification.objective import ClassificationObjective
from ..text import one_line
from ..weights.load import build_encoder
from ..weights.locate import open_weights
from ..weights.read import FILES, read_json
from .preprocess import ImagesLike, Preprocessing

METADATA = "maskery"  # key in an exported config.json: what neither tensors nor timm's settings say
THRESHOLD = 0.5  # the probability from which an image has a label, where it may have several


@dataclass(frozen=True)
class Prediction:
    """The answer of a classifier for one image."""

    name: str  # the path, or "image 0"
    labels: tuple[str, ...]  # the most probable class; of a multilabel classifier all above the threshold, or none
    probabilities: Mapping[str, float]  # of every class, the most probable first

    @property
    def label(self) -> str:
        """The labels as a list of images writes them: `cat`; multilabel `cat|dog`, or `|` for none."""
        return "|".join(self.labels) or "|"

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return next(iter(self.probabilities.values()))


class SelectedHead(nn.Module):
    """One of the heads that a task has trained on one encoder."""

    def __init__(self, objective: ClassificationObjective, head: int):
        super().__init__()
        self.objective, self.head = objective, head

    @property
    def encoder(self) -> ViT:
        return self.objective.encoder

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, M]."""
        return self.objective.classify(images)[:, self.head]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier in eval mode."""

    network: LinearClassifier | SelectedHead
    classes: tuple[str, ...]
    multilabel: bool  # an image may have several of the classes, or none
    crop_fraction: float  # the part of the resized image that the centre crop keeps
    images: ImagesConfig  # how files are read: channels, bits, pages, mean and std are known

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        return self.network.encoder.config.image_size

    @property
    def channels(self) -> int:
        return self.network.encoder.config.channels

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.channels, self.size, self.crop_fraction, self.images)

    def image_config(self, config: ImagesConfig) -> ImagesConfig:
        """How to read a data set: `config` with the classifier's channels, bits, pages, mean and std."""
        own = {name: getattr(self.images, name) for name in ("bits", "pages", "mean", "std")}
        return replace(config, channels=self.channels, memory=0, **own)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Images [B, C, h, w] in [0, 1] on the network's device -> logits [B, M]."""
        return self.network(images)

    def predict(self, images: ImagesLike, *, batch_size: int = 64) -> list[Prediction]:
        """Predict labels and probabilities of one or several images, in their order.

        images: paths, PIL images, arrays [H, W], [H, W, C] or [B, H, W, C], tensors [C, H, W] or [B, C, H, W], of any
        sizes; uint8, uint16, or floats in [0, 1]. They are resized, cut and normalised as for the evaluation that the
        classifier's numbers are from.

        ValueError, which names the image, when one cannot be read or has other channels.
        """
        device = self.network.encoder.mean.device
        predictions = []
        for names, batch in self.preprocessing.batches(images, batch_size):
            rows = probabilities(self.classify(batch.to(device)).float(), self.multilabel).cpu()
            predictions += [self.prediction(name, row) for name, row in zip(names, rows, strict=True)]
        return predictions

    def prediction(self, name: str, row: Tensor) -> Prediction:
        """Describe the probabilities [M] of one image."""
        order = row.argsort(descending=True, stable=True).tolist()
        by_class = {self.classes[i]: float(row[i]) for i in order}
        labels = (c for c, p in by_class.items() if p >= THRESHOLD) if self.multilabel else (self.classes[order[0]],)
        return Prediction(name, tuple(labels), by_class)

    def linear_classifier(self) -> LinearClassifier:
        """The network in the form that other libraries have. ValueError when it has none."""
        if isinstance(self.network, LinearClassifier):
            return self.network
        return self.network.objective.linear_classifier(self.network.head)


def load_classifier(where: str | Path) -> Classifier:
    """The classifier of a finished run of `maskery eval finetune` or `probe`, RUN/evals/finetune/end-seed0, of one of
    its checkpoints, or of what `maskery export --to safetensors` or `timm` wrote of one. In eval mode, on the CPU.

    `.predict(images)` takes paths, PIL images, arrays and tensors of any sizes.

    ValueError in one line when there is no classifier.
    """
    where = Path(where)
    if _export_metadata(where) is not None:
        return _load_export(where.parent if where.is_file() else where)
    if (where / "config.json").exists() or where.is_file():
        raise ValueError(
            f"{where}: no classifier that Maskery reads: that is a run of `maskery eval finetune` or `probe`, or what "
            "`maskery export --to safetensors` or `--to timm` wrote of one"
        )
    if not is_run(where):
        runs = [f"{place}" for place in sorted(where.glob("*-seed*")) if is_run(place)]
        raise ValueError(
            f"{where}: no classifier: a run of `maskery eval finetune` or `eval probe` is wanted, the directory with "
            "checkpoints/ in it" + (f"; there are: {', '.join(runs[:5])}" if runs else "")
        )
    return _load_run(where)


classifier = load_classifier  # maskery.classifier


def is_classifier(where: Path) -> bool:
    """Whether WHERE is a classifier, finished or not."""
    if is_run(where):
        return _classifies(open_run(where, lambda note: None).run.method)
    return _export_metadata(where) is not None


def export_metadata(classifier: Classifier, pool: Pool) -> dict[str, Any]:
    """What an exported config.json needs under `METADATA` to be read back."""
    return {
        "several_labels": classifier.multilabel,
        "pool": pool.of,
        "norm_last": pool.norm_last,
        "crop_share": classifier.crop_fraction,
        "bits": classifier.images.bits,
        "pages": classifier.images.pages,
    }


def _load_run(where: Path) -> Classifier:
    """A classifier of a run or checkpoint. ValueError when training or choosing one of its heads is unfinished."""
    directory = open_run(where)
    run = directory.run
    if not _classifies(run.method):
        raise ValueError(f"{where}: a run of {run.method}, which classifies nothing; `maskery eval finetune` makes one")
    head = directory.chosen_head
    objective = load_objective(directory) if head is not None or directory.checkpoint else None
    if objective is None or (head is None and len(objective.suffixes) > 1):
        raise ValueError(
            f"{directory.path}: not finished: the command of `maskery eval {run.method}` that began it goes on, and "
            "measures it at the end"
        )
    network, labels = SelectedHead(objective, head or 0).eval(), objective.labels
    return Classifier(network, labels.names, labels.several, objective.config.eval_share, run.images)


def _classifies(method: str) -> bool:
    return method in TASKS and issubclass(TASKS[method], ClassificationObjective)


def _load_export(folder: Path) -> Classifier:
    """The classifier in a directory that `maskery export` wrote."""
    config, weights = read_json(folder / "config.json"), open_weights(folder)
    tensors = weights.networks[weights.part].encoder
    trunk = {n.replace("fc_norm.", "norm."): t for n, t in tensors.items() if not n.startswith("head.")}
    encoder = build_encoder(weights.with_encoder(trunk), lambda note: None)
    try:
        metadata, classes = config[METADATA], tuple(map(str, config["label_names"]))
        pool = Pool(metadata["pool"], metadata["norm_last"])
        head = nn.Linear(encoder.config.dim * (2 if pool.of == "both" else 1), len(classes))
        head.load_state_dict({kind: tensors[f"head.{kind}"].float() for kind in ("weight", "bias")})
        c, bits, pages = encoder.config, metadata["bits"], metadata["pages"]
        images = ImagesConfig(channels=c.channels, bits=bits, pages=pages, mean=c.mean, std=c.std)
        network = LinearClassifier(encoder, pool, head).eval()
        return Classifier(network, classes, metadata["several_labels"], metadata["crop_share"], images)
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f"{folder}: its classifier is not as `maskery export` writes it: {one_line(e)}") from e


def _export_metadata(where: Path) -> Mapping[str, Any] | None:
    folder = where.parent if where.is_file() and where.name in FILES else where
    if not (folder / "config.json").exists():
        return None
    metadata = read_json(folder / "config.json").get(METADATA)
    return metadata if isinstance(metadata, dict) else None

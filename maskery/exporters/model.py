"""What is exported: an encoder, or a classifier with its encoder, and what is known about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..inference.classifier import Classifier, is_classifier, load_classifier
from ..nn.linear_classifier import LinearClassifier
from ..nn.vit import ViT
from ..runs.directory import RunDirectory, is_run, open_run
from ..tasks import TASKS
from ..weights.load import build_encoder
from ..weights.locate import Weights, open_weights, parse_where

ENCODER = "encoder"  # WHERE#encoder: the encoder of a classifier alone


@dataclass(frozen=True)
class ExportModel:
    """A network in eval mode, on the CPU."""

    encoder: ViT
    where: str = ""  # as the user named it
    weights: Weights | None = None  # the files of an encoder
    run: RunDirectory | None = None  # where the network is from a run or one of its checkpoints
    classifier: Classifier | None = None  # None: the encoder is exported alone
    network: LinearClassifier | None = None  # the classifier in the form that other libraries have

    @classmethod
    def of_classifier(cls, classifier: Classifier, where: str, run: RunDirectory | None = None) -> "ExportModel":
        """A classifier. ValueError when other libraries have nothing of its form."""
        network = classifier.linear_classifier()
        return cls(network.encoder, where, run=run, classifier=classifier, network=network)

    @property
    def output_name(self) -> str:
        return "logits" if self.classifier else "features"

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> logits [B, M], or class token and patch tokens [B, 1 + N, D]."""
        if self.classifier:
            return self.classifier.classify(images)
        class_token, patches = self.encoder(images)
        return torch.cat([class_token[:, None], patches], dim=1)


@dataclass(frozen=True)
class ExportResult:
    """What was written, once the other library has loaded it and computed the same."""

    to: str  # timm, hf, ...
    difference: float  # the largest of a batch, relative to the largest value
    compared: str  # in words: what with what
    load: str  # Python that loads it; {out} stands for the directory
    library: str  # what the Hub calls it
    sizes: str = "only images of that size"  # which images it takes
    limits: tuple[str, ...] = ()  # what it cannot do


def open_model(where: Path, say: Callable[[str], None] = print) -> ExportModel:
    """Open the classifier at WHERE, or the encoder of WHERE#encoder and of everything that is no classifier.

    ValueError as `load_encoder` and `load_classifier`; for another task's run, of which only the encoder can go out.
    """
    parsed = parse_where(where)
    if parsed.network is None and is_classifier(parsed.path):
        if parsed.metadata:
            raise ValueError(
                f"{where}: behind the # of a classifier stands {ENCODER}, for its encoder alone, or nothing"
            )
        classifier = load_classifier(parsed.path)
        run = open_run(parsed.path, lambda note: None) if is_run(parsed.path) else None
        try:
            return ExportModel.of_classifier(classifier, str(where), run)
        except ValueError as e:
            hint = f"maskery.classifier uses it, and {where}#{ENCODER} exports the encoder alone"
            raise ValueError(f"{where}: {e}; {hint}") from e
    weights = open_weights(where)
    if parsed.network is None and weights.run and (method := weights.run.run.method) in TASKS:
        raise ValueError(f"{where}: of a run of {method} only the encoder can be exported: {where}#{ENCODER}")
    return ExportModel(build_encoder(weights, say), str(where), weights, weights.run)

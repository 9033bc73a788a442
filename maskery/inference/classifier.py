"""Classifiers in, from runs and from what was exported of them: the network, and what its answers mean.

B images, C channels, h x w pixels of the input, M classes
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ..config import ImagesConfig
from ..nn.linear_classifier import LinearClassifier, Pool
from ..runs.directory import is_run, run_of
from ..tasks import TASKS
from ..tasks.classification.load import load_classifier, refuse_unfinished, run_directory
from ..tasks.classification.objective import Classifier as Task
from ..weights.load import encoder_of
from ..weights.locate import open_weights
from ..weights.read import FILES, read_json

OURS = "maskery"  # in config.json of an exported classifier: what neither tensors nor timm's words say


class Classifier(Protocol):
    """A run's (`Trained`) or an exported one."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def several(self) -> bool: ...  # whether an image may have several of them

    @property
    def size(self) -> tuple[int, int]: ...  # (height, width) of the input

    @property
    def share(self) -> float: ...  # of the resized image, what the centre crop keeps

    @property
    def images(self) -> ImagesConfig: ...  # channels, bits, mean and std are known

    def to(self, device: torch.device | str) -> Self: ...

    def classify(self, image: Tensor, /) -> Tensor: ...  # [B, C, h, w] in [0, 1] -> logits [B, M]


@dataclass(frozen=True)
class Plain:
    """One that was exported: what `said` wrote and `plain_at` reads."""

    network: LinearClassifier  # in eval mode
    classes: tuple[str, ...]
    several: bool
    share: float
    images: ImagesConfig

    @property
    def size(self) -> tuple[int, int]:
        return self.network.encoder.config.image_size

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        return self

    def classify(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(image)


def is_classifier(where: Path) -> bool:
    """Whether something at WHERE classifies, finished or not."""
    if is_run(where):
        task = TASKS.get(run_of(where, lambda note: None).method)
        return task is not None and issubclass(task, Task)
    return _said_at(where) is not None


def classifier_at(where: Path) -> Classifier:
    """The classifier of a finished run of `maskery eval finetune` or `probe`, of one of its checkpoints, or of what
    `maskery export --to safetensors` or `timm` wrote of one. In eval mode, on the CPU.

    ValueError in one line when there is none.
    """
    if _said_at(where) is not None:
        return plain_at(where.parent if where.is_file() else where)
    if (where / "config.json").exists() or where.is_file():
        raise ValueError(
            f"{where}: no classifier that Maskery reads: that is a run of `maskery eval finetune` or `probe`, or what "
            "`maskery export --to safetensors` or `--to timm` wrote of one"
        )
    if (where / "checkpoints").is_dir() and is_classifier(where):
        refuse_unfinished(where)
    found = load_classifier(where)
    if len(found.task.suffixes) > 1:
        refuse_unfinished(run_directory(where))  # which of the heads it is was not chosen before
    return found


def said(classifier: Classifier, pool: Pool) -> dict[str, Any]:
    """What stands in config.json for `plain_at`."""
    images = classifier.images
    return {
        "several_labels": classifier.several,
        "pool": pool.of,
        "norm_last": pool.norm_last,
        "crop_share": classifier.share,
        "bits": images.bits,
        "pages": images.pages,
    }


def plain_at(folder: Path) -> Plain:
    """The classifier in a directory that `maskery export` wrote."""
    facts, weights = read_json(folder / "config.json"), open_weights(folder)
    found = weights.networks[weights.part]
    state = {n.replace("fc_norm.", "norm."): t for n, t in found.encoder.items() if not n.startswith("head.")}
    bare = replace(weights, networks={weights.part: replace(found, encoder=state)})
    encoder = encoder_of(bare, lambda note: None)
    try:
        ours, classes = facts[OURS], tuple(map(str, facts["label_names"]))
        pool = Pool(ours["pool"], ours["norm_last"])
        head = nn.Linear(encoder.config.dim * (2 if pool.of == "both" else 1), len(classes))
        head.load_state_dict({kind: found.encoder[f"head.{kind}"].float() for kind in ("weight", "bias")})
        c = encoder.config
        images = ImagesConfig(channels=c.channels, bits=ours["bits"], pages=ours["pages"], mean=c.mean, std=c.std)
        return Plain(
            LinearClassifier(encoder, pool, head).eval(), classes, ours["several_labels"], ours["crop_share"], images
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        why = " ".join(str(e).split())[:160]
        raise ValueError(f"{folder}: its classifier is not as `maskery export` writes it: {why}") from e


def _said_at(where: Path) -> Mapping[str, Any] | None:
    folder = where.parent if where.is_file() and where.name in FILES else where
    if not (folder / "config.json").exists():
        return None
    found = read_json(folder / "config.json").get(OURS)
    return found if isinstance(found, dict) else None

"""The contract between the loop and everything that can be trained."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from . import optim
from .data.augment import Augment
from .data.crops import Crop
from .data.dataset import ImageData
from .data.loader import Draws, Plan
from .nn.baselines import Guesses
from .nn.vit import ViT

Batch = dict[str, Any]  # named views [B, C, H, W] in [0, 1], "label" [B] where there is one, and what `draw` added
Losses = dict[str, Tensor]  # scalars; "loss" is minimised, all others are only logged, unweighted


class Objective(nn.Module, abc.ABC):
    """Something to train. Subclasses are final and are built as `cls(settings, vit_config)`.

    The module is the whole method: the loop compiles it, wraps it, saves its `state_dict`; trainable is what has
    `requires_grad`. Only the loop counts: whatever changes during training is a function of the progress t in [0, 1].
    """

    Config: ClassVar[type]  # frozen dataclass: the paper's hyper-parameters, each with its source
    encoder: ViT  # what evaluation and export take away
    encoders: ClassVar[tuple[str, ...]] = ("encoder.",)  # where the state dict has encoders; `encoder` is the first
    brought: tuple[str, ...] = ()  # where the state dict has what is pretrained already, whatever it starts from
    group: int = 1  # the images of a micro-batch have to be a multiple of this
    whole: bool = False  # the loss compares all images of a process's batch, so there are no micro-batches
    eager: ClassVar[str] = ""  # why it is no graph of fixed shapes: then the loop does not compile it, and says so
    notes: tuple[str, ...] = ()  # what a person should know before the first step
    labelled: ClassVar[bool] = False  # whether it learns from labels; only then are there any in its batches
    layer_decay: float = 1.0  # of the learning rate, from each block of the encoder to the one before it
    undecayed: ClassVar[tuple[str, ...]] = ()  # parameters without weight decay, beside those that have none anyway
    augment: str | None = None  # timm's name of what happens to every crop after it is resized (RandAugment)

    @classmethod
    def prepared(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        """The settings with what the data decide (classes), and the part of the data that is for this objective.

        ValueError in one line when it can do nothing with them.
        """
        return settings, data

    @abc.abstractmethod
    def views(self, crop: Crop) -> dict[str, Crop]:
        """The images that `forward` finds in its batch, by name. Views with the *same* `Crop` object share it."""

    def draws(
        self, data: ImageData, crops: Sequence[Crop], size: tuple[int, int], seed: int, plan: Plan, device: torch.device
    ) -> Draws:
        """What its batches are cut from: a view for each crop, and labels where it is `labelled`."""
        augment = Augment(self.augment, self.encoder.config.mean, size) if self.augment else None
        return Draws(data.images, data.train, crops, size, seed, plan, device, labelled=self.labelled, augment=augment)

    def truth(self, data: ImageData, indices: np.ndarray) -> Batch:
        """What pictures of these images need beside them, each cut as the centre crop."""
        return {}

    def draw(self, batch: Batch, t: float) -> Batch:
        """The batch with this step's random choices added (masks), and what they are drawn from (frozen teachers).

        Runs eagerly, before the compiled graph, without gradients, once for the whole batch of a process. Micro-batches
        are cut from the result: a tensor has the images as its first dimension, or no dimension when it is for all.
        """
        return batch

    @abc.abstractmethod
    def forward(self, batch: Batch, t: float) -> Losses:
        """The losses of one batch at progress t. Draws what `draw` has not drawn yet; changes no state."""

    @abc.abstractmethod
    def picture(self, batch: Batch) -> dict[str, Tensor]:
        """What shows people how it goes: {caption: images [B, C, H, W] in [0, 1]}, for a batch that `draw` has seen."""

    def guesses(self, batch: Batch) -> Guesses:
        """What guesses without a network would lose on a batch that `draw` has seen: the scale of the health report.

        By name of a loss, then by guess in words. Empty where nothing is comparable.
        """
        return {}

    def measure(self, data: ImageData, most: int, precision: torch.dtype, workers: int) -> dict[str, float]:
        """Of a `labelled` objective: what held-out images (at most so many) say about it, in eval mode."""
        return {}

    def train(self, mode: bool = True) -> Self:
        """As ever, but an encoder that is frozen stays in eval mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def lr_scale(self, name: str) -> float:
        """What the learning rate is multiplied by for a trainable parameter: layer decay."""
        return optim.layer_rate(name, len(self.encoder.blocks), self.layer_decay)

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay acts on a trainable parameter."""
        return name not in self.undecayed and optim.decays(name, parameter)

    def after_step(self, t: float) -> None:
        """Called once after every optimiser step, never per micro-batch: teachers move here."""

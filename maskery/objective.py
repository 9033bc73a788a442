"""The contract between the training loop and everything that can be trained.

B batch, C channels, H and W height and width in pixels
"""

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
from .data.train_dataset import RandomCrops, SamplingPlan, TrainDataset, class_labels
from .nn.baselines import Baselines
from .nn.vit import ViT

Batch = dict[str, Any]  # named views [B, C, H, W] in [0, 1], "label" [B] where there is one, and what `sample` added
Losses = dict[str, Tensor]  # scalars; "loss" is minimised, all others are only logged, unweighted


class Objective(nn.Module, abc.ABC):
    """Something to train. Subclasses are final and are built as `cls(settings, vit_config)`.

    Where `teacher_source` names a pretrained teacher, the loaded network is the third argument. The module is the whole
    method: the loop compiles it, wraps it and saves its `state_dict`; parameters with `requires_grad` are trained. Only
    the loop counts steps: whatever changes during training is a function of the progress t in [0, 1].
    """

    Config: ClassVar[type]  # frozen dataclass: the paper's hyper-parameters, each with its source
    encoder: ViT  # the result: what evaluation and export use
    encoders: ClassVar[tuple[str, ...]] = (
        "encoder.",
    )  # prefixes of encoders in the state dict; `encoder` is the first
    pretrained_prefixes: tuple[str, ...] = ()  # of the state dict: pretrained already, whatever the run starts from
    micro_batch_multiple: int = 1  # the number of images in a micro-batch has to be a multiple of this
    needs_whole_batch: bool = False  # the loss compares all images of a process's batch: no micro-batches
    no_compile_reason: ClassVar[str] = ""  # why it cannot be one graph of fixed shapes; the loop does not compile it
    notes: tuple[str, ...] = ()  # printed before the first step
    labelled: ClassVar[bool] = False  # whether it learns from labels; only then do batches have any
    layer_decay: float = 1.0  # of the learning rate, from each block of the encoder to the one before it
    no_weight_decay: ClassVar[tuple[str, ...]] = ()  # parameters without weight decay, beside biases and 1-D tensors
    augment: str | None = None  # timm's name of the augmentation of every resized crop (RandAugment)

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        """The settings completed by the data (classes), and the part of the data that this objective trains on.

        ValueError in one line when the data do not fit.
        """
        return settings, data

    @classmethod
    def teacher_source(cls, settings: Any) -> tuple[str, str | None] | None:
        """The pretrained teacher that the settings ask for: its name or directory, and a file of weights."""
        return None

    @abc.abstractmethod
    def views(self, crop: Crop) -> dict[str, Crop]:
        """The images in `forward`'s batch, by name. Views with the *same* `Crop` object share its geometry."""

    def train_dataset(self, data: ImageData, crops: Sequence[Crop], plan: SamplingPlan) -> TrainDataset:
        """The training batches: a view for each crop, and labels where the objective is `labelled`."""
        target = class_labels(data.images.source) if self.labelled else None
        augment = Augment(self.augment, self.encoder.config.mean, plan.size) if self.augment else None
        return TrainDataset(data.images, data.train, plan, RandomCrops(crops), target, augment)

    def picture_targets(self, data: ImageData, indices: np.ndarray) -> Batch:
        """Targets that `picture` needs beside these images (masks, boxes), cut as the centre crop."""
        return {}

    def sample(self, batch: Batch, t: float) -> Batch:
        """Add this step's random choices (masks, strong views), and what they depend on (features of frozen teachers).

        Runs eagerly, before the compiled graph, without gradients, once for the whole batch of a process. Micro-batches
        are slices of the result: a tensor has the images as its first dimension, or no dimension when all share it.
        """
        return batch

    @abc.abstractmethod
    def forward(self, batch: Batch, t: float) -> Losses:
        """The losses of one batch at progress t. Calls `sample` unless the batch has its result; changes no state."""

    @abc.abstractmethod
    def picture(self, batch: Batch) -> dict[str, Tensor]:
        """The columns of a strip, {caption: images [B, C, H, W] in [0, 1]}, for a batch that went through `sample`."""

    def trivial_baselines(self, batch: Batch) -> Baselines:
        """Losses of predictions without a network, for a batch that went through `sample`: the scale of health checks.

        By name of a loss, then by baseline. Empty where no such prediction is comparable.
        """
        return {}

    def validate(self, data: ImageData, most: int, precision: torch.dtype, workers: int) -> dict[str, float]:
        """Metrics of a `labelled` objective on the validation images, at most `most` of them, in eval mode."""
        return {}

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.encoder.parameters()):
            self.encoder.eval()
        return self

    def lr_multiplier(self, name: str) -> float:
        """Learning-rate multiplier of a trainable parameter: layer decay."""
        return optim.layer_decay_multiplier(name, len(self.encoder.blocks), self.layer_decay)

    def has_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay applies to a trainable parameter."""
        return name not in self.no_weight_decay and optim.has_weight_decay(name, parameter)

    def after_step(self, t: float) -> None:
        """Called once after every optimiser step, never per micro-batch: moving-average teachers are updated here."""

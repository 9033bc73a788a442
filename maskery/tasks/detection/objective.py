"""Detection: boxes, classes and masks of objects, by Mask R-CNN on a plain transformer (ViTDet, Li et al. 2022).

f          the encoder, trained with layer decay, or frozen; its patch tokens before the last norm      [B, N, D]
P          the simple feature pyramid of f as a map: strides of a quarter to four patches     [B, W, height, width]
objects of an image: boxes [T, 4] in pixels, classes [T], masks [T, H, W]

    L = L_objectness + L_proposals + L_classes + L_boxes + L_masks    (Mask R-CNN: each a mean over what is sampled)

Stated (ViTDet): the pyramid, its heads (`nn/mask_rcnn.py`), windows of 14 with four global blocks, large-scale jitter
0.1 to 2, layer decay and drop path by model. Not done: relative positions, the cascade, soft-NMS.
Ours: without windows the class token stays and every block attends to all patches; everything frozen; small data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...data.crops import Crop
from ...data.dataset import ImageData
from ...data.object_targets import NO_OBJECT, ObjectSampler, ScaleJitter, object_targets
from ...data.train_dataset import SamplingPlan, TrainDataset
from ...evals.detect import SCORE, Detections, Show, average_precision, detect_images, fitting_images, paste_mask
from ...evals.eval_pass import InferenceOptions
from ...nn.vit import ViTConfig
from ...nn.windows import global_blocks, windowed
from ...objective import Batch, Losses
from ...pictures.segments import outlined
from ..labels import LabelsConfig
from ..supervision import ABOVE_0, BELOW_1, SupervisedObjective, check_range, supervised_encoder
from . import targets

PARTS = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposals",
    "loss_classifier": "classes",
    "loss_box_reg": "boxes",
    "loss_mask": "masks",
}
KEYS = 2**48  # seeds of the samples of an image's proposals


@dataclass(frozen=True)
class DetectConfig:
    freeze: bool = False  # the encoder stays as it is: only pyramid and heads are trained
    masks: Literal["auto", "on", "off"] = "auto"  # learn and measure masks; auto: where every object has one
    window: int | None = None  # patches along a side of the windows of attention; None: attention to all patches
    global_blocks: int = 4  # blocks that attend to all patches nonetheless
    width: int = 256  # of the pyramid and the heads
    rois: int = 512  # proposals an image that the heads learn from
    layer_decay: float = 0.7  # of the learning rate, from each block to the one before it (B: 0.7, L: 0.8, H: 0.9)
    drop_path: float = 0.1  # in the last block, linearly less before it (B: 0.1, L: 0.4, H: 0.5)
    scale: tuple[float, float] = (0.1, 2.0)  # images are scaled by before they are cut, 1: the whole just fits
    labels: LabelsConfig = field(default_factory=LabelsConfig)


class Detect(SupervisedObjective):
    Config = DetectConfig
    config: DetectConfig
    no_compile_reason = "the shapes of Mask R-CNN's tensors depend on the number of objects and proposals"

    def __init__(self, config: DetectConfig, vit: ViTConfig):
        super().__init__()
        from ...nn.mask_rcnn import mask_rcnn  # torchvision takes a second to import

        note = "; at 0 nothing but the heads would learn, and --settings.freeze does that"
        check_range(config, "layer_decay", low=ABOVE_0, high=1, note=note)
        check_range(config, "drop_path", high=BELOW_1)
        check_range(config, "width", "rois", "window", low=1)
        if config.window:
            check_range(config, "global_blocks", low=1, high=vit.depth, note=", the blocks of this encoder")
        if config.labels.balanced:
            raise ValueError("--settings.labels.balanced: detection has no such loss")
        self.config, self.layer_decay, self.jitter = config, config.layer_decay, ScaleJitter(config.scale)
        self.encoder = supervised_encoder(vit, not config.freeze)  # f
        self.encoder.norm.requires_grad_(False)  # not part of it
        if config.window:
            self.encoder.cls_token.requires_grad_(False)  # nor is this
        self.everywhere = global_blocks(vit.depth, config.global_blocks)
        self.with_masks = config.masks != "off"
        M = config.labels.count
        self.detector = mask_rcnn(vit.dim, config.width, M, vit.patch_size, self.with_masks, config.rois)

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        return targets.prepare(settings, data)

    def train_dataset(self, data: ImageData, crops: Sequence[Crop], plan: SamplingPlan) -> TrainDataset:
        sampler = ObjectSampler(replace(self.jitter, flip=crops[0].flip), fill=self.encoder.config.mean)
        target = object_targets(data.images.source, plan.size, self.with_masks)
        return TrainDataset(data.images, data.train, plan, sampler, target)

    def picture_targets(self, data: ImageData, indices: np.ndarray) -> Batch:
        objects = targets.centre_objects(data, indices, self.encoder.config.image_size, self.with_masks)
        return {"label": objects.to(self.device)}

    def tokens(self, image: Tensor, paths: Tensor | None = None) -> Tensor:
        """Patch tokens before the last norm, [B, N, D]."""
        f, x = self.encoder, self.encoder.normalise(image)
        if self.config.window:
            return windowed(f, x, self.config.window, self.everywhere, paths)
        return f.trunk(x, paths)[:, 1:]

    def sample(self, batch: Batch, t: float) -> Batch:
        image = batch["image"]
        y = batch["label"] if "label" in batch else targets.grid_of_squares(image, self.with_masks)
        if not self.training:
            return {"image": image, "y": y}
        keys = torch.randint(KEYS, (len(image),))
        return {"image": image, "y": y, "keys": keys} | self.sample_encoder(image, self.tokens)

    def forward(self, batch: Batch, t: float) -> Losses:
        from ...nn.mask_rcnn import losses

        batch = batch if "y" in batch else self.sample(batch, t)
        extent = [tuple(size) for size in batch["y"].extent.tolist()]
        objects = targets.torchvision_targets(batch["y"], batch["image"].shape[2:], self.with_masks)
        parts = losses(self.detector, self.maps(batch), extent, objects, batch["keys"])
        total = sum(parts.values(), start=torch.zeros(()).to(batch["image"]))
        return {"loss": total} | {PARTS[name]: value.detach() for name, value in parts.items()}

    def maps(self, batch: Batch) -> Tensor:
        """f as a map [B, D, h, w]."""
        image, tokens = batch["image"], batch.get("features")
        tokens = self.tokens(image, batch.get("paths")) if tokens is None else tokens
        return tokens.transpose(1, 2).unflatten(2, self.encoder.grid(image))

    def detect(self, image: Tensor, extent: Tensor | None = None) -> list[dict[str, Tensor]]:
        """Images [B, C, H, W] in [0, 1], filled up to `extent` [B, 2] -> the K objects of each, highest score first.

        boxes [K, 4] in pixels, classes [K], scores [K], and perhaps masks [K, 28, 28]: probabilities over the box.
        In eval mode.
        """
        from ...nn.mask_rcnn import detections

        h, w = image.shape[2:]
        sizes = [(h, w)] * len(image) if extent is None else [(h, w) for h, w in extent.tolist()]
        answers = []
        for objects in detections(self.detector, self.maps({"image": image}), sizes):
            answer = {"boxes": objects["boxes"], "classes": objects["labels"] - 1, "scores": objects["scores"]}
            answers.append(answer | ({"masks": objects["masks"][:, 0]} if self.with_masks else {}))
        return answers

    def detected(self, data: ImageData, indices: np.ndarray, show: Show | None = None, **options: Any) -> Detections:
        """Detect in these images; `options` are those of `InferenceOptions`."""
        vit, inference = self.encoder.config, InferenceOptions(self.device, **options)
        images = fitting_images(data.images, indices, vit.image_size, vit.mean, inference)
        return detect_images(self.detect, images, self.with_masks, show)

    def metrics(self, data: ImageData, indices: np.ndarray, precision: torch.dtype, workers: int) -> dict[str, float]:
        result = self.detected(data, indices, precision=precision, workers=workers)
        numbers, _ = average_precision(result, self.with_masks)
        return {name: value for name, value in numbers.items() if name.endswith(("_ap", "_ap50"))}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image, y, M = batch["image"], batch["y"], self.config.labels.count
        truth, prediction = [], []
        for i, answer in enumerate(self.detect(image)):
            real = y.classes[i] != NO_OBJECT
            masks = y.masks(i, (image.shape[2], image.shape[3])) if self.with_masks else None
            truth.append(outlined(image[i], y.boxes[i, real], y.classes[i, real], M, masks))
            prediction.append(self.predicted(image[i], answer))
        return {"image": image, "truth": torch.stack(truth), f"found (surer than {SCORE})": torch.stack(prediction)}

    def predicted(self, image: Tensor, answer: dict[str, Tensor]) -> Tensor:
        """An image [C, H, W] under the objects that were detected in it with some confidence, [3, H, W]."""
        sure, size, masks = answer["scores"] >= SCORE, (image.shape[1], image.shape[2]), None
        if self.with_masks:
            objects = zip(answer["masks"][sure].cpu(), answer["boxes"][sure].cpu(), strict=True)
            masks = torch.from_numpy(np.array([paste_mask(*one, size) for one in objects]).reshape(-1, *size)).to(image)
        return outlined(image, answer["boxes"][sure], answer["classes"][sure], self.config.labels.count, masks)

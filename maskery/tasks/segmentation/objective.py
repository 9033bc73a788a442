"""Semantic segmentation: a class for every pixel, from a plain transformer's tokens (MAE, appendix A.4; BEiT's code).

f          the encoder, trained with layer decay, or frozen                                     [B, 1 + N, D]
f_1 .. f_4 its patch tokens after a third, a half, two thirds and all of the blocks, as maps    [B, D, h, w]
d          the decoder: UPerNet, all-MLP, or for `linear` the last tokens after f's norm        [B, W, h', w']
a          an auxiliary decoder (FCN) of f_3, for UPerNet                                       [B, 256, h, w]
V, U       classifiers of single vectors (1 x 1 convolutions), enlarged to the image            [M, W], [M, 256]
y          classes of the pixels, void ones have none                                           [B, H, W]

    L = CE(V d(f_1 .. f_4), y) + 0.4 CE(U a(f_3), y),  each the sum over pixels / all pixels, void ones included

Stated (MAE): UPerNet as in BEiT's code, end to end, 100 epochs of batch 16. From mmsegmentation's configuration of MAE:
the blocks, decoder width D, auxiliary weight 0.4 and width 256, dropout 0.1 before V and U, layer decay 0.65, drop path
0.1, the mean over all pixels. Not done: BEiT's relative positions, which MAE adds for ADE20K alone.
Ours: GroupNorm (`nn/upernet.py`), the all-MLP decoder, everything frozen but the batch-normalised linear head, which is
DINOv2's without its affine parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.crops import Crop, center_box
from ...data.dataset import ImageData
from ...data.distortion import distorted
from ...data.mask_targets import MaskSampler, RandomScaleCrop, mask_targets
from ...data.masks import VOID, LabelMap, mask_of, nearest
from ...data.train_dataset import SamplingPlan, TrainDataset
from ...evals.eval_pass import EvalPass, InferenceOptions
from ...evals.segment import Inference, Show, images_with_masks, numbers, segment_images
from ...nn.all_mlp import AllMLP
from ...nn.upernet import Pyramid, UPerNet, conv_norm
from ...nn.vit import ViTConfig
from ...objective import Batch, Losses
from ...pictures.segments import painted
from ..labels import LabelsConfig
from ..supervision import ABOVE_0, BELOW_1, SupervisedObjective, check_range, supervised_encoder
from . import targets

AUXILIARY = 256  # width of the auxiliary decoder
MLP = 256  # usual width of the all-MLP decoder


@dataclass(frozen=True)
class SegmentConfig:
    head: Literal["upernet", "mlp", "linear"] = "upernet"
    freeze: bool = False  # the encoder stays as it is: only the head is trained
    width: int | None = None  # of the decoder; None: the encoder's for UPerNet, 256 for mlp
    depths: tuple[int, int, int, int] | None = None  # blocks of the decoder; None: 4, 6, 8 and 12 of 12, and so on
    layer_decay: float = 0.65  # of the learning rate, from each block to the one before it
    drop_path: float = 0.1  # in the last block, linearly less before it
    dropout: float = 0.1  # of whole channels, before the classifier
    auxiliary: float = 0.4  # weight of UPerNet's second loss; 0: without
    scale: tuple[float, float] = (0.5, 2.0)  # of an image before it is cropped, 1: the short side is the crop's
    cat_max_ratio: float = 0.75  # fraction of a crop that one class may cover
    distortion: bool = True  # brightness, contrast, saturation and hue are changed at random
    ignore_index: int | None = 255  # value of void in masks
    reduce_zero_label: Literal["auto", "on", "off"] = "auto"  # 0 is void too, classes count from 1; auto: of ADE20K
    inference: Inference = "slide"  # windows at the image's own aspect ratio, or the whole image at the input's size
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    ids: tuple[int, ...] = ()  # of the data: the value of each class in masks


class Segment(SupervisedObjective):
    Config = SegmentConfig
    config: SegmentConfig

    def __init__(self, config: SegmentConfig, vit: ViTConfig):
        super().__init__()
        self.config, self.layer_decay = config, config.layer_decay
        self.depths = depths_of(config, vit.depth)
        self.crop = RandomScaleCrop(config.scale, config.cat_max_ratio)
        note = "; at 0 nothing but the head would learn, and --settings.freeze does that"
        check_range(config, "layer_decay", low=ABOVE_0, high=1, note=note)
        check_range(config, "drop_path", "dropout", high=BELOW_1)
        check_range(config, "auxiliary", note=" (0: without)")
        check_range(config, "width", low=1)
        check_range(config, "ignore_index", high=(1 << 16) - 1, note=", a value of a mask, or none")
        M = config.labels.count
        self.encoder = supervised_encoder(vit, not config.freeze)  # f
        for unused in self.encoder.blocks[max(self.depths) if config.head != "linear" else vit.depth :]:
            unused.requires_grad_(False)
        self.encoder.norm.requires_grad_(config.head == "linear" and not config.freeze)
        self.width = vit.dim
        self.auxiliary: nn.ModuleList | None = None  # a, U
        if config.head == "upernet":
            self.width = config.width or vit.dim
            self.pixel_decoder = nn.ModuleList([Pyramid(vit.dim), UPerNet(vit.dim, self.width)])  # d
            if config.auxiliary:
                self.auxiliary = nn.ModuleList([conv_norm(vit.dim, AUXILIARY, 3), classifier(AUXILIARY, M)])
        elif config.head == "mlp":
            width = config.width or MLP
            if width % 4:
                raise ValueError(f"--settings.width is {width}: a multiple of 4, enlarged maps have a quarter")
            self.width, self.pixel_decoder = width // 4, nn.ModuleList([AllMLP(vit.dim, width, len(self.depths))])
        else:
            self.pixel_decoder = nn.ModuleList()
        self.classifier = classifier(self.width, M)  # V
        self.normalises = config.head == "linear" and config.freeze
        if self.normalises:
            self.track_statistics(vit.dim)

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        return targets.prepare(settings, data)

    def label_map(self, data: ImageData) -> LabelMap:
        """Which class each value of a mask is."""
        ids = self.config.ids or tuple(range(self.config.labels.count))
        return LabelMap(ids, targets.void_values(data.images.source, self.config))

    def train_dataset(self, data: ImageData, crops: Sequence[Crop], plan: SamplingPlan) -> TrainDataset:
        crop = replace(self.crop, flip=crops[0].flip)
        sampler = MaskSampler(crop, self.label_map(data), fill=self.encoder.config.mean)
        return TrainDataset(data.images, data.train, plan, sampler, mask_targets(plan.size))

    def picture_targets(self, data: ImageData, indices: np.ndarray) -> Batch:
        images, size, label_map = data.images, self.encoder.config.image_size, self.label_map(data)

        def centre(i: int) -> np.ndarray:
            image = images.open(i)
            mask = mask_of(images.source, i, (image.height, image.width), label_map)
            return nearest(mask, center_box(image.height, image.width, size), size)

        masks, void = dict(images.readable(indices.tolist(), centre, [])), np.full(size, VOID, np.int16)
        return {"label": torch.from_numpy(np.stack([masks.get(i, void) for i in indices.tolist()])).to(self.device)}

    def features(self, image: Tensor, paths: Tensor | None = None) -> Tensor:
        """f_1 .. f_4 as tokens [B, 4, N, D]; for `linear` the last tokens after the encoder's norm, [B, 1, N, D]."""
        f, x = self.encoder, self.encoder.normalise(image)
        if self.config.head == "linear":
            return f.norm(f.trunk(x, paths))[:, None, 1:]
        return torch.stack(f.after(x, self.depths, paths), dim=1)[:, :, 1:]

    def sample(self, batch: Batch, t: float) -> Batch:
        image = batch["image"]
        void = torch.full((len(image), *image.shape[2:]), VOID, device=image.device)
        y = batch["label"].long() if "label" in batch else void
        if not self.training:
            return {"image": image, "y": y}
        sample: Batch = {"image": distorted(image) if self.config.distortion else image, "y": y}
        if self.config.dropout:
            keep = 1 - self.config.dropout
            widths = self.width + (AUXILIARY if self.auxiliary is not None else 0)
            sample["channels"] = (torch.rand(len(image), widths, device=image.device) < keep) / keep
        sample |= self.sample_encoder(sample["image"], self.features)
        if self.normalises:
            sample["features"] = self.batch_normalised(sample["features"])
        return sample

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "y" in batch else self.sample(batch, t)
        logits, auxiliary = self.logits(batch)
        loss = targets.loss(logits, batch["y"], self.config.labels)
        if auxiliary is None:
            return {"loss": loss}
        second = targets.loss(auxiliary, batch["y"], self.config.labels)
        return {"loss": loss + self.config.auxiliary * second, "auxiliary": second.detach()}

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """V d(f_1 .. f_4) at the decoder's resolution [B, M, h', w'], and of a training batch U a(f_3)."""
        image, tokens, factors = batch["image"], batch.get("features"), batch.get("channels")
        if tokens is None:
            tokens = self.features(image, batch.get("paths"))
            tokens = self.normalised(tokens) if self.normalises else tokens
        maps = [x.transpose(1, 2).unflatten(2, self.encoder.grid(image)) for x in tokens.unbind(1)]
        own, other = (None, None) if factors is None else (factors[:, : self.width], factors[:, self.width :])
        second = None
        if self.auxiliary is not None and self.training:
            conv, last = self.auxiliary
            second = last(channel_dropout(conv(maps[2]), other))
        d: Any = maps[-1] if len(maps) == 1 else maps
        for part in self.pixel_decoder:
            d = part(d)
        return self.classifier(channel_dropout(d, own)), second

    def segment(self, image: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> logits [B, M, H, W]; in eval mode."""
        logits, _ = self.logits({"image": image})
        return F.interpolate(logits.float(), image.shape[2:], mode="bilinear", align_corners=False)

    def segmented(
        self, data: ImageData, indices: np.ndarray, show: Show | None = None, **options: Any
    ) -> tuple[Tensor, EvalPass]:
        """Confusion of the pixels of these images, and which could be read; `options`: those of `InferenceOptions`."""
        size, label_map, inference = self.encoder.config.image_size, self.label_map(data), self.config.inference
        how = InferenceOptions(self.device, **options)
        images = images_with_masks(data.images, indices, size, label_map, inference, how)
        return segment_images(self.segment, images, len(label_map.ids), show), images

    def metrics(self, data: ImageData, indices: np.ndarray, precision: torch.dtype, workers: int) -> dict[str, float]:
        return numbers(self.segmented(data, indices, precision=precision, workers=workers)[0])

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image, M = batch["image"], self.config.labels.count
        masks = {"truth": batch["y"], "prediction": self.segment(image).argmax(1)}
        return {"image": image} | {caption: painted(image, mask, M) for caption, mask in masks.items()}


def classifier(width: int, classes: int) -> nn.Conv2d:
    """Of the vector at every place; initial weights as mmsegmentation has them."""
    conv = nn.Conv2d(width, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def channel_dropout(x: Tensor, factors: Tensor | None) -> Tensor:
    """Maps [B, W, h, w] times factors [B, W], 0 for dropped channels."""
    return x if factors is None else x * factors[:, :, None, None]


def depths_of(config: SegmentConfig, depth: int) -> tuple[int, ...]:
    """Blocks whose tokens the decoder gets; the first is 1."""
    depths = config.depths or tuple(max(1, round(depth * part)) for part in (1 / 3, 1 / 2, 2 / 3, 1))
    if min(depths) < 1 or max(depths) > depth or list(depths) != sorted(depths):
        raise ValueError(f"--settings.depths {depths}: this encoder has {depth} blocks, and deeper ones come later")
    return depths

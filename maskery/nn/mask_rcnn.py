"""Mask R-CNN (He et al. 2017) as torchvision has it, on the simple feature pyramid, with ViTDet's heads.

B batch, M classes, D width of the encoder, W width of the pyramid, K objects of one image, p pixels of a patch

Stated (Li et al. 2022, and ViTDet's configuration in detectron2): anchors of 32 .. 512 pixels on the five levels in
three shapes, two convolutions before proposals, four and a linear layer for boxes, four for masks, norms over channels,
512 proposals an image to learn from, a quarter of them positive. Left as torchvision has it: the smooth L1 loss of
boxes (beta 1/9; theirs is L1). Ours: anchors of 2 p .. 32 p, which is the same for p = 16; what is sampled for the
losses is drawn from one key an image, so that it is the same however a batch is cut.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from .pyramid import LEVELS, STRIDES, ChannelNorm, SimplePyramid

ANCHOR = 8  # sides of a square anchor, in strides of its level
RATIOS = (0.5, 1.0, 2.0)
CANONICAL = 14  # patches: objects so large are pooled from the level with the patches' own stride (224 of 16)
CONVOLUTIONS = 4


class Anchors(AnchorGenerator):
    """torchvision's, at the strides of the levels: it would compute them from rounded sizes."""

    def __init__(self, patch: int):
        super().__init__(tuple((ANCHOR * stride * patch,) for stride in STRIDES), (RATIOS,) * len(STRIDES))
        self.strides = tuple(stride * patch for stride in STRIDES)
        self.corners = [cell.tolist() for cell in self.cell_anchors]
        self.cell_anchors = []  # tensors that no `to` would move

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        device, anchors = feature_maps[0].device, []
        for x, stride, corners in zip(feature_maps, self.strides, self.corners, strict=True):
            down, across = (torch.arange(n, device=device, dtype=torch.float32) * stride for n in x.shape[2:])
            y, x = torch.meshgrid(down, across, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)
            anchors.append((shifts + torch.tensor(corners, device=device)).flatten(0, 1))
        return [torch.cat(anchors)] * len(image_list.image_sizes)


class Sampler:
    """A random choice of proposals, as torchvision's, drawn from `keys` [B]: one number an image, set before a step."""

    keys: Tensor | None = None

    def __init__(self, count: int, positives: float, stream: int):
        self.count, self.positives = count, positives  # of an image; the largest fraction of positive ones
        self.stream = stream  # other random numbers for proposals than for boxes

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Labels of the proposals of each image (1 and more: positive, 0: negative) -> masks of the chosen ones."""
        assert self.keys is not None
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for labels, key in zip(matched_idxs, self.keys.tolist(), strict=True):
            generator = torch.Generator(labels.device).manual_seed(2 * key + self.stream)
            left = self.count
            for indices, most, out in (
                (torch.where(labels >= 1)[0], int(self.count * self.positives), chosen[0]),
                (torch.where(labels == 0)[0], self.count, chosen[1]),
            ):
                order = torch.randperm(len(indices), generator=generator, device=labels.device)
                picked = indices[order[: min(most, left)]]
                left -= len(picked)
                out.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill_(0, picked, 1))
        return chosen


def in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Forward hook of predictors: a coordinate of 1,000 pixels in bfloat16 is off by four."""
    return output.float() if isinstance(output, Tensor) else type(output)(in_float32(module, (), x) for x in output)


def mask_rcnn(dim: int, width: int, classes: int, patch: int, masks: bool, rois: int) -> FasterRCNN:
    """Build the detector of maps [B, D, h, w], without torchvision's transform before and after it."""
    layers, fc = [width] * CONVOLUTIONS, 4 * width
    parts: dict[str, Any] = {
        "rpn_anchor_generator": Anchors(patch),
        "rpn_head": RPNHead(width, len(RATIOS), conv_depth=2),
        "rpn_post_nms_top_n_train": 1000,
        "box_roi_pool": roi_align(7, patch),
        "box_head": FastRCNNConvFCHead((width, 7, 7), layers, [fc], ChannelNorm),
        "box_predictor": FastRCNNPredictor(fc, classes + 1),
        "box_batch_size_per_image": rois,
    }
    pyramid = SimplePyramid(dim, width)
    if masks:
        parts |= {
            "mask_roi_pool": roi_align(14, patch),
            "mask_head": MaskRCNNHeads(width, layers, 1, ChannelNorm),
            "mask_predictor": MaskRCNNPredictor(width, width, classes + 1),
        }
    detector: Any = (MaskRCNN if masks else FasterRCNN)(pyramid, **parts)
    detector.transform = nn.Identity()
    detector.rpn.fg_bg_sampler = Sampler(256, 0.5, 0)
    detector.roi_heads.fg_bg_sampler = Sampler(rois, 0.25, 1)
    for name in ("rpn_head", "box_predictor", "mask_predictor"):
        if name in parts:
            parts[name].register_forward_hook(in_float32)
    predictor = detector.roi_heads.box_predictor
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):  # as detectron2
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return detector


def roi_align(side: int, patch: int) -> MultiScaleRoIAlign:
    """Pooling to side x side; its levels do not depend on the first images, which here do not fill their batch."""
    pool = MultiScaleRoIAlign(list(LEVELS[:4]), side, 2)
    pool.scales = [1 / (stride * patch) for stride in STRIDES[:4]]
    pool.map_levels = LevelMapper(2, 5, CANONICAL * patch, 4)
    return pool


def losses(
    detector: Any, maps: Tensor, extent: list[tuple[int, int]], targets: list[dict[str, Tensor]], keys: Tensor
) -> dict[str, Tensor]:
    """Losses of maps [B, D, h, w] whose images fill `extent` pixels (height, width)."""
    for part in (detector.rpn, detector.roi_heads):
        part.fg_bg_sampler.keys = keys
    features = {name: x.float() for name, x in detector.backbone(maps).items()}
    proposals, first = detector.rpn(ImageList(maps, extent), features, targets)
    _, second = detector.roi_heads(features, proposals, extent, targets)
    return first | second


def detections(detector: Any, maps: Tensor, extent: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """In eval mode, the objects of each image: boxes [K, 4], labels [K] from 1, scores [K], masks [K, 1, 28, 28]."""
    features = {name: x.float() for name, x in detector.backbone(maps).items()}
    proposals, _ = detector.rpn(ImageList(maps, extent), features)
    return detector.roi_heads(features, proposals, extent)[0]

"""A directory for timm: config.json and model.safetensors, the tensors under the names they have in training."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..data.crops import resize_size
from ..inference.classifier import METADATA, Classifier, export_metadata
from ..nn.linear_classifier import Pool
from ..nn.vit import SIZES, ViT, ViTConfig
from .check import check_outputs
from .model import ExportModel, ExportResult

NAMES = {  # the architecture whose arguments are closest; every number is given as well
    SIZES["vit-tiny"]: "vit_tiny_patch16_224",
    SIZES["vit-small"]: "vit_small_patch16_224",
    SIZES["vit-base"]: "vit_base_patch16_224",
    SIZES["vit-large"]: "vit_large_patch16_224",
    SIZES["vit-huge"]: "vit_huge_patch14_224",
}
SIZES_OF_TIMM = "images of that size; of others with dynamic_img_size=True in create_model"
LOAD = """\
import timm

model = timm.create_model("local-dir:{out}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
features = model(transform(image).unsqueeze(0))"""
CLASSIFY = (
    LOAD.rpartition("\n")[0]
    + """
probabilities = model(transform(image).unsqueeze(0)).ACTIVATION  # of model.pretrained_cfg["label_names"]"""
)


def write_timm(model: ExportModel, folder: Path) -> ExportResult:
    """Write what `timm.create_model("local-dir:FOLDER", pretrained=True)` opens.

    Without a classifier the model has no head (`num_classes=0`); `forward_features` gives class and patch tokens after
    the last norm. The directory's mean, std and size are what `resolve_data_config` returns.
    """
    import timm  # takes a second

    encoder, classifier, network = model.encoder, model.classifier, model.network
    config = _config(encoder)
    if classifier and network:
        if network.pool.of == "both":
            raise ValueError(
                f"{model.where}: a classifier of the {network.pool} is none that timm has; take --to onnx or "
                "safetensors"
            )
        config = _with_head(config, classifier, network.pool)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tensors(network.timm_state() if network else encoder.state_dict(), folder)
    theirs: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    forward = theirs if classifier else theirs.forward_features
    worst = check_outputs(model, lambda images: forward(encoder.normalise(images)), "timm's")
    load = CLASSIFY.replace("ACTIVATION", activation(classifier.multilabel)) if classifier else LOAD
    return ExportResult("timm", worst, f"timm's {model.output_name} are ours", load, "timm", sizes=SIZES_OF_TIMM)


def save_tensors(state: Mapping[str, Tensor], folder: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as model.safetensors."""
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"} | (metadata or {}))


def activation(multilabel: bool) -> str:
    """The call that makes probabilities of logits."""
    return "sigmoid()" if multilabel else "softmax(1)"


def problem_type(multilabel: bool) -> str:
    """What transformers, which opens such directories too, calls the kind of classifier."""
    return f"{'multi' if multilabel else 'single'}_label_classification"


def _with_head(config: dict[str, Any], classifier: Classifier, pool: Pool) -> dict[str, Any]:
    """Add a head to a configuration: its pooling, the classes, and the part of an image that it sees."""
    classes, pooling = classifier.classes, {"global_pool": "token" if pool.of == "class_token" else "avg"}
    size = {"num_classes": len(classes), "crop_pct": crop_pct(classifier.size, classifier.crop_fraction)}
    return config | {
        **pooling,
        "num_classes": len(classes),
        "label_names": list(classes),
        "problem_type": problem_type(classifier.multilabel),
        "model_args": config["model_args"] | pooling | {"fc_norm": pool.norm_last},
        "pretrained_cfg": config["pretrained_cfg"] | size,
        METADATA: export_metadata(classifier, pool),
    }


def crop_pct(size: tuple[int, int], fraction: float) -> float:
    """The value with which timm resizes to the same pixels as we do: it rounds down, we to the nearest.

    Of a rectangle a side may have one pixel less, where no number gives both.
    """
    targets = resize_size(size, fraction)
    if all(math.floor(side / fraction) == target for side, target in zip(size, targets, strict=True)):
        return fraction
    least = max(target / side for side, target in zip(size, targets, strict=True))
    below = min((target + 1) / side for side, target in zip(size, targets, strict=True))
    return 2 / (least + below) if least < below else fraction


def model_args(c: ViTConfig) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer."""
    return {
        "img_size": list(c.image_size),
        "patch_size": c.patch_size,
        "in_chans": c.channels,
        "embed_dim": c.dim,
        "depth": c.depth,
        "num_heads": c.heads,
    }


def _config(encoder: ViT) -> dict[str, Any]:
    c = encoder.config
    return {
        "architecture": next((n for s, n in NAMES.items() if s.dim == c.dim), "vit_tiny_patch16_224"),
        "num_classes": 0,
        "num_features": c.dim,
        "global_pool": "token",
        # not num_classes: transformers, which opens this too, would give it twice
        "model_args": model_args(c) | {"global_pool": "token"},
        "pretrained_cfg": {
            "input_size": [c.channels, *c.image_size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(c.mean),
            "std": list(c.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }

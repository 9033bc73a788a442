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
from ..inference.classifier import OURS, said
from ..nn.vit import SIZES, ViT, ViTConfig
from .check import difference, images_for, refuse_above, tokens_of
from .source import Exported, Named, Source

NAMES = {  # the architecture whose arguments are closest; every number is given as well
    SIZES["vit-tiny"]: "vit_tiny_patch16_224",
    SIZES["vit-small"]: "vit_small_patch16_224",
    SIZES["vit-base"]: "vit_base_patch16_224",
    SIZES["vit-large"]: "vit_large_patch16_224",
    SIZES["vit-huge"]: "vit_huge_patch14_224",
}
TOLERANCE = 1e-5
LOAD = """\
import timm

model = timm.create_model("local-dir:{out}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))
features = model(transform(image).unsqueeze(0))"""
CLASSIFY = (
    LOAD.rpartition("\n")[0]
    + """
probabilities = model(transform(image).unsqueeze(0)).PROBABLE  # of model.pretrained_cfg["label_names"]"""
)


def write(source: Source, folder: Path) -> Exported:
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` opens; compared with it.

    Without a classifier the model has no head (`num_classes=0`); `forward_features` gives class and patch tokens after
    the last norm. The directory's mean, std and size are what `resolve_data_config` returns.
    """
    import timm  # takes a second, which whoever wants no timm directory need not wait

    encoder, named = source.encoder, source.classifier
    config = _config(encoder)
    if named:
        if named.network.pool.of == "both":
            raise ValueError(
                f"{source.where}: a classifier of the {named.network.pool} is none that timm has; take --to onnx or "
                "safetensors"
            )
        config = _classifying(config, named)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save(named.network.timm_state() if named else encoder.state_dict(), folder / "model.safetensors")
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = images_for(encoder)
    with torch.no_grad():
        x = encoder.normalise(images)
        if named:
            found, what = difference(named.like.classify(images), model(x)), "logits"
        else:
            found, what = difference(tokens_of(encoder, images), model.forward_features(x)), "features"
    refuse_above(TOLERANCE, found, f"timm's {what}")
    load = CLASSIFY.replace("PROBABLE", "sigmoid()" if named.like.several else "softmax(1)") if named else LOAD
    return Exported("timm", found, f"timm's {what} are ours", load, "timm", sizes=SIZES_OF_TIMM)


SIZES_OF_TIMM = "images of that size; of others with dynamic_img_size=True in create_model"


def save(state: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """A state dict."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    save_file(tensors, file, metadata={"format": "pt"} | (metadata or {}))


def _classifying(config: dict[str, Any], named: Named) -> dict[str, Any]:
    """The configuration with a head: how timm calls what it looks at, the classes, and how much of an image it sees."""
    network, classes = named.network, named.like.classes
    pool = {"global_pool": "token" if network.pool.of == "class_token" else "avg"}
    seen = {"num_classes": len(classes), "crop_pct": crop_pct(named.like.size, named.like.share)}
    told = {"num_classes": len(classes), "label_names": list(classes), "problem_type": problem_type(named.like.several)}
    args = config["model_args"] | pool | {"fc_norm": network.pool.norm_last}
    cfg = config["pretrained_cfg"] | seen
    return config | pool | told | {"model_args": args, "pretrained_cfg": cfg, OURS: said(named.like, network.pool)}


def problem_type(several: bool) -> str:
    """In transformers' words, which opens such directories, too."""
    return f"{'multi' if several else 'single'}_label_classification"


def crop_pct(size: tuple[int, int], share: float) -> float:
    """What timm has to be told to resize to the same whole pixels as we do: it rounds down, we to the nearest.

    Of a rectangle a side may have one pixel less, where no number gives both.
    """
    wanted = resize_size(size, share)
    if all(math.floor(side / share) == whole for side, whole in zip(size, wanted, strict=True)):
        return share
    least = max(whole / side for side, whole in zip(size, wanted, strict=True))
    below = min((whole + 1) / side for side, whole in zip(size, wanted, strict=True))
    return 2 / (least + below) if least < below else share


def model_args(c: ViTConfig) -> dict[str, Any]:
    """What timm's VisionTransformer calls the numbers of a network."""
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

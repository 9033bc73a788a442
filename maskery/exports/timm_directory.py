"""A directory for timm: config.json and model.safetensors, the tensors under the names they have in training."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from ..nn.vit import SIZES, ViT
from .check import difference, images_for, refuse_above, tokens_of
from .source import Exported, Source

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


def write(source: Source, folder: Path) -> Exported:
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` opens; compared with it.

    The model has no head (`num_classes=0`); `forward_features` gives class and patch tokens after the last norm. The
    directory's mean, std and size are what `resolve_data_config` returns.
    """
    encoder = source.encoder
    (folder / "config.json").write_text(json.dumps(_config(encoder), indent=2))
    save(encoder, folder / "model.safetensors")
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = images_for(encoder)
    with torch.no_grad():
        found = difference(tokens_of(encoder, images), model.forward_features(encoder.normalise(images)))
    refuse_above(TOLERANCE, found, "timm's features")
    return Exported("timm", found, "timm's features are ours", LOAD, "timm", sizes=SIZES_OF_TIMM)


SIZES_OF_TIMM = "images of that size; of others with dynamic_img_size=True in create_model"


def save(encoder: ViT, file: Path, metadata: dict[str, str] | None = None) -> None:
    """The encoder's state dict."""
    state = {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()}
    save_file(state, file, metadata={"format": "pt"} | (metadata or {}))


def _config(encoder: ViT) -> dict[str, Any]:
    c = encoder.config
    return {
        "architecture": next((n for s, n in NAMES.items() if s.dim == c.dim), "vit_tiny_patch16_224"),
        "num_classes": 0,
        "num_features": c.dim,
        "global_pool": "token",
        "model_args": {
            "img_size": list(c.image_size),
            "patch_size": c.patch_size,
            "in_chans": c.channels,
            "embed_dim": c.dim,
            "depth": c.depth,
            "num_heads": c.heads,
            "num_classes": 0,
            "global_pool": "token",
        },
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

"""Weights out, each kind loaded again and compared with the source before it counts as done."""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from .nn.vit import SIZES, ViT

TIMM_NAMES = {  # the architecture whose arguments are closest; every number is given as well
    SIZES["vit-tiny"]: "vit_tiny_patch16_224",
    SIZES["vit-small"]: "vit_small_patch16_224",
    SIZES["vit-base"]: "vit_base_patch16_224",
    SIZES["vit-large"]: "vit_large_patch16_224",
    SIZES["vit-huge"]: "vit_huge_patch14_224",
}
TOLERANCE = 1e-5  # relative, of the features of a batch


def to_timm(encoder: ViT, out: Path, overwrite: bool = False) -> float:
    """Write a directory that `timm.create_model("local-dir:OUT", pretrained=True)` opens.

    Returns the largest relative difference of the features of a batch, ours against timm's; ValueError, and no
    directory, when it is above 1e-5. The model has no head (`num_classes=0`); `forward_features` gives class and
    patch tokens after the last norm, and the directory's mean, std and size are what `resolve_data_config` returns.
    """
    c = encoder.config
    half = out.with_name(f".writing-{out.name}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    facts = {
        "architecture": next((n for s, n in TIMM_NAMES.items() if s.dim == c.dim), "vit_tiny_patch16_224"),
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
    try:
        (half / "config.json").write_text(json.dumps(facts, indent=2))
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in encoder.state_dict().items()},
            half / "model.safetensors",
            metadata={"format": "pt"},
        )
        difference = compare_with_timm(encoder, half)
        if not difference <= TOLERANCE:
            raise ValueError(f"{out}: timm's features differ by {difference:.1e}, more than {TOLERANCE:.0e}")
        if overwrite and out.exists():
            shutil.rmtree(out)
        half.rename(out)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return difference


@torch.no_grad()
def compare_with_timm(encoder: ViT, directory: Path) -> float:
    """The largest difference of the tokens of a batch, relative to the largest token value."""
    model: Any = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    images = torch.rand(2, encoder.config.channels, *encoder.config.image_size)
    encoder = encoder.cpu().eval()
    ours = torch.cat([t if t.ndim == 3 else t[:, None] for t in encoder(images)], dim=1)
    theirs = model.forward_features(encoder.normalise(images))
    return float((ours - theirs).abs().max() / ours.abs().max())

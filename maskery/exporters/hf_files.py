"""Directories for Hugging Face transformers: configuration, image processor, names of tensors.

The tensors get the names that the hub's checkpoints have, which every version of transformers reads.

D width
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.crops import resize_size
from ..nn.vit import ViT
from ..text import needs_extra
from .timm_directory import save_tensors

NAMES = (  # ours -> theirs; `_split` splits queries, keys and values first
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
)
IN_BLOCKS = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
LOAD = """\
from transformers import AutoImageProcessor, {model}

processor, model = AutoImageProcessor.from_pretrained("{{out}}"), {model}.from_pretrained("{{out}}"{arguments})
{last}"""


def import_transformers(kind: str) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise ImportError(f"{needs_extra(f'--to {kind}', 'transformers', 'hf')} ({e})") from e
    return transformers


def write_directory(
    folder: Path, encoder: ViT, config: Mapping[str, Any], tensors: Mapping[str, Tensor], crop_fraction: float = 1.0
) -> tuple[str, ...]:
    """Write configuration, image processor and tensors; returns what the image processor does otherwise than we do."""
    processor, limits = image_processor(encoder, crop_fraction)
    (folder / "config.json").write_text(json.dumps({**config, **encoder_config(encoder)}, indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    save_tensors(tensors, folder)
    return limits


def load_back(name: str, folder: Path, **arguments: Any) -> Any:
    """The transformers model in the directory. ValueError when it left a tensor at random or did not know one."""
    import transformers

    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **arguments)
    finally:
        if bars:
            logging.enable_progress_bar()
    wrong = [f"{kind}: {', '.join(map(str, info[kind]))}" for kind in sorted(info) if info[kind]]
    if wrong:
        raise ValueError(f"transformers did not read what was written ({'; '.join(wrong)[:200]}): nothing was written")
    return model.eval()


def encoder_config(encoder: ViT) -> dict[str, Any]:
    c = encoder.config
    return {
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": 4 * c.dim,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm.eps,
        "image_size": c.image_size[0] if c.image_size[0] == c.image_size[1] else list(c.image_size),
        "patch_size": c.patch_size,
        "num_channels": c.channels,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
    }


def image_processor(encoder: ViT, crop_fraction: float) -> tuple[dict[str, Any], tuple[str, ...]]:
    """preprocessor_config.json: the central square as in our evaluations; and what it does otherwise."""
    c, limits = encoder.config, []
    height, width = c.image_size
    tall, wide = resize_size(c.image_size, crop_fraction)
    config: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(c.mean),
        "image_std": list(c.std),
        "do_resize": True,
        "resample": 3,  # bicubic
        "size": {"shortest_edge": tall} if height == width else {"height": tall, "width": wide},
    }
    if height == width or crop_fraction < 1:
        config |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if height != width:
        limits.append(
            f"The image processor squeezes an image of another shape to {tall} x {wide}; Maskery cuts its centre"
        )
    if c.channels == 3:
        config |= {"do_convert_rgb": True}
    else:
        limits.append(
            f"The image processor does not make {c.channels} channels of a file: give it arrays {c.channels} x H x W "
            'with input_data_format="channels_first"'
        )
    limits.append(
        "The image processor divides by 255: 16-bit images have to be brought to 8 bits, or scaled, before it"
    )
    return config, tuple(limits)


def sizes_of(encoder: ViT) -> str:
    height, width = encoder.config.image_size
    if height == width:
        return "images of that size; of others with interpolate_pos_encoding=True (without antialiasing, unlike ours)"
    return "only images of that size"


def encoder_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an encoder under transformers' names."""
    return {_rename(name, NAMES + IN_BLOCKS): t for name, t in _split(state).items()}


def decoder_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an MAE decoder under transformers' names."""
    blocks = ((r"^blocks\.", "decoder_layers."), *IN_BLOCKS)
    renamed = {_rename(name, blocks): t for name, t in _split(state).items()}
    return {n if n.startswith(("mask_token", "decoder_")) else f"decoder_{n}": t for n, t in renamed.items()}


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split queries, keys and values: [3 D, ...] -> three of [D, ...]."""
    separate: dict[str, Tensor] = {}
    for name, t in state.items():
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), t.chunk(3), strict=True)
            separate |= {name.replace(".attn.qkv.", f".attention.attention.{part}."): rows for part, rows in parts}
        else:
            separate[name] = t
    return separate


def _rename(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, theirs in patterns:
        name = re.sub(pattern, theirs, name)
    return name

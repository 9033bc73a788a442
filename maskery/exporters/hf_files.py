"""What the directories for Hugging Face transformers share: configuration, image processor, names of tensors.

The tensors get the names that the hub's checkpoints have, which every version of transformers reads.

D width
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..data.crops import resize_size
from ..nn.vit import ViT

TOLERANCE = 1e-5
NEEDS = "needs transformers: pip install 'maskery[hf]'"
NAMES = (  # ours -> theirs; `_names` splits queries, keys and values first
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


def library(to: str) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise ImportError(f"--to {to} {NEEDS} ({e})") from e
    return transformers


@contextmanager
def without_bars(transformers: Any) -> Iterator[None]:
    says = transformers.utils.logging
    had = says.is_progress_bar_enabled()
    says.disable_progress_bar()
    try:
        yield
    finally:
        if had:
            says.enable_progress_bar()


def config_of(encoder: ViT) -> dict[str, Any]:
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


def processor(encoder: ViT, folder: Path, share: float = 1.0) -> tuple[str, ...]:
    """preprocessor_config.json: the central square as in our evaluations; returns what it does otherwise."""
    c, limits = encoder.config, []
    height, width = c.image_size
    tall, wide = resize_size(c.image_size, share)
    facts: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(c.mean),
        "image_std": list(c.std),
        "do_resize": True,
        "resample": 3,  # bicubic
    }
    if height == width:
        facts |= {
            "size": {"shortest_edge": tall},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
    else:
        facts |= {"size": {"height": tall, "width": wide}}
        if share < 1:
            facts |= {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        limits.append(
            f"The image processor squeezes an image of another shape to {tall} x {wide}; Maskery cuts its centre"
        )
    if c.channels == 3:
        facts |= {"do_convert_rgb": True}
    else:
        limits.append(
            f"The image processor does not make {c.channels} channels of a file: give it arrays {c.channels} x H x W "
            'with input_data_format="channels_first"'
        )
    limits.append(
        "The image processor divides by 255: 16-bit images have to be brought to 8 bits, or scaled, before it"
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(facts, indent=2))
    return tuple(limits)


def sizes_of(encoder: ViT) -> str:
    height, width = encoder.config.image_size
    if height == width:
        return "images of that size; of others with interpolate_pos_encoding=True (without antialiasing, unlike ours)"
    return "only images of that size"


def names_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_name(name, NAMES + IN_BLOCKS): t for name, t in _split(state).items()}


def decoder_names_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    blocks = ((r"^blocks\.", "decoder_layers."), *IN_BLOCKS)
    renamed = {_name(name, blocks): t for name, t in _split(state).items()}
    return {n if n.startswith(("mask_token", "decoder_")) else f"decoder_{n}": t for n, t in renamed.items()}


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values apart: [3 D, ...] -> three of [D, ...], in this order."""
    apart: dict[str, Tensor] = {}
    for name, t in state.items():
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), t.chunk(3), strict=True)
            apart |= {name.replace(".attn.qkv.", f".attention.attention.{part}."): rows for part, rows in parts}
        else:
            apart[name] = t
    return apart


def _name(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, theirs in patterns:
        name = re.sub(pattern, theirs, name)
    return name


def save(state: Mapping[str, Tensor], folder: Path) -> None:
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refuse_incomplete(told: Mapping[str, Any]) -> None:
    """ValueError when the library left a tensor at random or did not know one."""
    wrong = [f"{kind}: {', '.join(map(str, told[kind]))}" for kind in sorted(told) if told[kind]]
    if wrong:
        raise ValueError(f"transformers did not read what was written ({'; '.join(wrong)[:200]}): nothing was written")

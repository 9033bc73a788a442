"""Directories for Hugging Face transformers: `ViTModel`, or `ViTMAEForPreTraining` with the decoder.

The tensors get the names that the hub's checkpoints have, which every version of transformers reads.

B images, N patches, D width
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..foreign import read_json
from ..methods.mae import MAE, MAEConfig
from ..nn import convert, masking
from ..nn.decoder import DecoderSize
from ..nn.targets import pixels
from ..nn.vit import ViT
from ..runs import run_of
from .check import difference, images_for, refuse_above, tokens_of
from .source import Exported, Source

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
OTHERWISE = {  # methods that have a pixel decoder of this form and use it otherwise
    "mixed-ae": "its decoder reconstructs images from mixtures of several, which ViTMAEForPreTraining does not make"
}


def write(source: Source, folder: Path) -> Exported:
    """What `ViTModel.from_pretrained(FOLDER)` opens, with what prepares its images; compared with it."""
    transformers = _transformers("hf")
    encoder = source.encoder
    eps = encoder.norm.eps
    facts = {"architectures": ["ViTModel"], "model_type": "vit"} | _config(encoder)
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    limits = _processor(encoder, folder)
    _save(_names(encoder.state_dict()), folder)

    with _without_bars(transformers):
        model, told = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    _refuse_incomplete(told)
    images = images_for(encoder)
    with torch.no_grad():
        theirs = model.eval()(encoder.normalise(images)).last_hidden_state
    found = difference(tokens_of(encoder, images), theirs)
    refuse_above(TOLERANCE, found, f"transformers' features (eps of norms {eps:g})")
    last = 'features = model(**processor(image, return_tensors="pt")).last_hidden_state[:, 1:].mean(1)'
    load = LOAD.format(model="ViTModel", arguments=", add_pooling_layer=False", last=last)
    compared = "the features of transformers' ViTModel are ours"
    return Exported("hf", found, compared, load, "transformers", _sizes(encoder), limits)


def write_mae(source: Source, folder: Path) -> Exported:
    """What `ViTMAEForPreTraining.from_pretrained(FOLDER)` opens; latent and loss compared under the same masks."""
    transformers = _transformers("hf-mae")
    mae = mae_of(source)
    encoder, size = mae.encoder, mae.config.decoder
    n, r = encoder.config.num_patches, mae.config.mask_ratio
    k = masking.visible_count(n, r)
    facts = {"architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae"} | _config(encoder)
    facts |= {
        "decoder_hidden_size": size.dim,
        "decoder_num_hidden_layers": size.depth,
        "decoder_num_attention_heads": size.heads,
        "decoder_intermediate_size": 4 * size.dim,
        "mask_ratio": r if int(n * (1 - r)) == k else 1 - (k + 0.5) / n,  # which theirs rounds down to k as well
        "norm_pix_loss": mae.config.norm_pix,
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    limits = _processor(encoder, folder)
    decoder = {f"decoder.{name}": t for name, t in _decoder_names(mae.decoder.state_dict()).items()}
    _save({f"vit.{name}": t for name, t in _names(encoder.state_dict()).items()} | decoder, folder)

    with _without_bars(transformers):
        model, told = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    _refuse_incomplete(told)
    images = images_for(encoder)
    noise = torch.rand(len(images), n, generator=torch.Generator().manual_seed(1))
    x, m = encoder.normalise(images), masking.hide_highest(noise, r)
    with torch.no_grad():
        latent = model.eval().vit(x, noise=noise).last_hidden_state
        theirs = model(x, noise=noise)
        x_hat, z = mae.eval().predict(x, m), encoder.encode(x, m)
        u = pixels(x, encoder.config.patch_size, mae.config.norm_pix)
        loss = masking.hidden_mean((x_hat - u).square().mean(-1), m)
    pairs = {"latent": (z, latent), "predictions": (x_hat, theirs.logits), "loss": (loss, theirs.loss)}
    found = {what: difference(*pair) for what, pair in pairs.items()}
    worst = max(found, key=lambda what: found[what])
    refuse_above(TOLERANCE, found[worst], f"transformers' {worst}")
    compared = "latent, predictions and loss of transformers' ViTMAEForPreTraining are ours"
    last = 'loss = model(**processor(image, return_tensors="pt")).loss  # masks 75 % anew each time'
    last = last.replace("75 %", f"{r:.0%}")
    load = LOAD.format(model="ViTMAEForPreTraining", arguments="", last=last)
    return Exported("hf-mae", found[worst], compared, load, "transformers", limits=limits)


def mae_of(source: Source) -> MAE:
    """The encoder with the pixel decoder it was trained with. ValueError says why there is none."""
    encoder, weights, where = source.encoder, source.weights, source.where or "the encoder"
    given = MAEConfig()
    if source.run:
        run = run_of(source.run, lambda note: None)
        if run.method in OTHERWISE:
            raise ValueError(f"{where}: {run.method} is no ViTMAEForPreTraining: {OTHERWISE[run.method]}; take --to hf")
        said = {f.name: getattr(run.settings, f.name) for f in fields(run.settings)}
        given = MAEConfig(said.get("mask_ratio", given.mask_ratio), said.get("norm_pix", given.norm_pix))
    elif weights and (Path(weights.where) / "config.json").exists():
        said = read_json(Path(weights.where) / "config.json")
        given = MAEConfig(said.get("mask_ratio", given.mask_ratio), said.get("norm_pix_loss", given.norm_pix))
    found = convert.decoder_names(weights.networks[weights.part].decoder) if weights else {}
    c = encoder.config
    outputs = c.patch_size**2 * c.channels
    if not found:
        raise ValueError(f"{where}: there is no decoder, which ViTMAEForPreTraining has; take --to hf")
    if found["pred.weight"].shape[0] != outputs:
        raise ValueError(
            f"{where}: its decoder predicts {found['pred.weight'].shape[0]} numbers a patch, not its {outputs} pixels "
            "as ViTMAEForPreTraining does; take --to hf"
        )
    if c.image_size[0] != c.image_size[1]:
        raise ValueError(
            f"{where}: images of {c.image_size[0]} x {c.image_size[1]}, and ViTMAEForPreTraining takes squares only; "
            "take --to hf"
        )
    dim = found["mask_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("blocks."))
    heads = (weights.facts.decoder_heads if weights else None) or 16  # MAE's, where nobody says
    with torch.device("meta"):
        mae = MAE(MAEConfig(given.mask_ratio, given.norm_pix, DecoderSize(dim, depth, heads)), c)
    mae.encoder = encoder
    try:
        mae.decoder.load_state_dict(found, assign=True)
    except RuntimeError as e:
        raise ValueError(f"{where}: its decoder is not MAE's: {' '.join(str(e).split())[:160]}") from e
    return mae


def _transformers(to: str) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise ImportError(f"--to {to} {NEEDS} ({e})") from e
    return transformers


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    says = transformers.utils.logging
    had = says.is_progress_bar_enabled()
    says.disable_progress_bar()
    try:
        yield
    finally:
        if had:
            says.enable_progress_bar()


def _config(encoder: ViT) -> dict[str, Any]:
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


def _processor(encoder: ViT, folder: Path) -> tuple[str, ...]:
    """preprocessor_config.json: the central square as in our evaluations; returns what it does otherwise."""
    c, limits = encoder.config, []
    height, width = c.image_size
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
            "size": {"shortest_edge": height},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
    else:
        facts |= {"size": {"height": height, "width": width}}
        limits.append(
            f"The image processor squeezes an image of another shape to {height} x {width}; Maskery cuts its centre"
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


def _sizes(encoder: ViT) -> str:
    height, width = encoder.config.image_size
    if height == width:
        return "images of that size; of others with interpolate_pos_encoding=True (without antialiasing, unlike ours)"
    return "only images of that size"


def _names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_name(name, NAMES + IN_BLOCKS): t for name, t in _split(state).items()}


def _decoder_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _save(state: Mapping[str, Tensor], folder: Path) -> None:
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _refuse_incomplete(told: Mapping[str, Any]) -> None:
    """ValueError when the library left a tensor at random or did not know one."""
    wrong = [f"{kind}: {', '.join(map(str, told[kind]))}" for kind in sorted(told) if told[kind]]
    if wrong:
        raise ValueError(f"transformers did not read what was written ({'; '.join(wrong)[:200]}): nothing was written")

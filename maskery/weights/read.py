"""Read files of weights from anywhere without running code in them; find the networks and their metadata."""

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..text import one_line
from .convert import Metadata

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ANCHORS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")  # every ViT has one of them
# Words in the names of tensors that do not tell one network from another.
WRAPPERS = {"module", "_orig_mod", "model", "state_dict", "net", "encoder", "backbone", "vit", "deit", "dinov2"}


@dataclass(frozen=True)
class Network:
    """The tensors of one vision transformer, under the names they have in the file."""

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]  # empty when there is none
    others: dict[str, Tensor]  # what is beside the networks, under full names


def read_tensors(file: Path) -> Mapping[str, Any]:
    """Read a .safetensors file or what torch.save wrote: tensors by name, or a tree of such.

    ValueError in one line when it is none, is damaged, or holds more than tensors and numbers; no code in it is run.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # Training checkpoints of MAE, RC-MAE and DINO hold their command line's options, which are only values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of pickle, before the error
            tree = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as e:
        name = re.search(r"GLOBAL (\w[\w.]*)", str(e))
        reason = f"asks for the Python object {name[1]}" if name else "holds more than tensors, or is damaged"
        raise ValueError(
            f"{file}: refused, and nothing in it was run: it {reason}; only tensors and numbers are read. A model that "
            "you trust can be saved as its state dict alone, best as .safetensors"
        ) from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, SafetensorError) as e:
        raise ValueError(f"{file}: cannot be read as weights, it is damaged or something else: {one_line(e)}") from e
    if not isinstance(tree, Mapping):
        raise ValueError(f"{file}: holds no weights by name but a {type(tree).__name__}")
    return tree


def read_directory(directory: Path) -> Mapping[str, Any]:
    """Read the tensors that timm, Hugging Face or we wrote into a directory, in one file or several."""
    file = next((directory / name for name in FILES if (directory / name).exists()), None)
    if file is None:
        raise ValueError(f"{directory}: none of {', '.join(FILES)} is there")
    if file.suffix != ".json":
        return read_tensors(file)
    shards = read_json(file).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{file}: damaged: it has no weight_map")
    parts = [read_tensors(directory / Path(str(name)).name) for name in sorted(set(shards.values()))]
    return {name: t for part in parts for name, t in part.items()}


def networks(tree: Mapping[str, Any]) -> dict[str, Network]:
    """Find the vision transformers in a tree of tensors, by what tells them apart, in their order there."""
    by_name: dict[str, Network] = {}
    for path, flat in _flat(tree):
        prefixes = {name.removesuffix(anchor) for name in flat for anchor in ANCHORS if name.endswith(anchor)}
        prefixes = sorted((p for p in prefixes if not p or p.endswith(".")), key=len)
        parts = {prefix: _split(prefix, flat, prefixes) for prefix in prefixes}
        used = {name for names in parts.values() for both in names for name in both.values()}
        others = {name: t for name, t in flat.items() if name not in used}
        for prefix, names in parts.items():
            encoder, decoder = ({short: flat[name] for short, name in part.items()} for part in names)
            by_name.setdefault(network_name(f"{path}.{prefix}"), Network(encoder, decoder, others))
    return by_name


def network_name(path: str) -> str:
    """The part of a path that tells networks apart: "teacher_without_ddp.module." -> "teacher", "encoder." -> ""."""
    words = (word.removesuffix("_without_ddp") for word in path.split("."))
    return ".".join(word for word in words if word and word not in WRAPPERS)


def decoder_beside(prefix: str) -> str:
    """The decoder's prefix for an encoder's: "student.encoder." -> "student.decoder."."""
    return re.sub(r"[^.]+\.$", "", prefix) + "decoder."


def read_metadata(directory: Path) -> Metadata:
    """Read a config.json of timm, Hugging Face or ours."""
    path = directory / "config.json"
    config = read_json(path) if path.exists() else {}
    try:
        if "model_type" in config:
            path = directory / "preprocessor_config.json"
            return _metadata_of_hugging_face(config, read_json(path) if path.exists() else {})
        return _metadata_of_timm(config)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as e:
        raise ValueError(f"{path}: not what timm, Hugging Face or `maskery export` writes: {one_line(e)}") from e


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. ValueError in one line when the file is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(f"{path}: damaged: {one_line(e)}") from e
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: damaged: it holds no settings")
    return tree


def _flat(tree: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dictionary of tensors in a tree, with its path."""
    flat = {name: t for name, t in tree.items() if isinstance(name, str) and isinstance(t, Tensor)}
    if flat:
        yield path, flat
    for name, value in tree.items():
        if isinstance(name, str) and isinstance(value, Mapping) and depth < 3:
            yield from _flat(value, f"{path}.{name}", depth + 1)


def _split(prefix: str, flat: Mapping[str, Tensor], prefixes: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Map the short names of an encoder and of its decoder to their full names.

    The official MAE has its decoder among the encoder's tensors, Hugging Face and we have it beside the encoder.
    """
    inner = [p for p in prefixes if p != prefix and p.startswith(prefix)]
    mine = {name[len(prefix) :]: name for name in flat if name.startswith(prefix) and not name.startswith(tuple(inner))}
    if "decoder_embed.weight" in mine:
        decoder = {n: name for n, name in mine.items() if n.startswith("decoder_") or n == "mask_token"}
        return {n: name for n, name in mine.items() if n not in decoder}, decoder
    beside = decoder_beside(prefix)
    if not prefix or any(p.startswith(beside) for p in prefixes):
        return mine, {}
    return mine, {name[len(beside) :]: name for name in flat if name.startswith(beside)}


def _metadata_of_timm(config: Mapping[str, Any]) -> Metadata:
    args, cfg = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    if args.get("act_layer") not in (None, "gelu"):
        raise ValueError(f"its activation is {args['act_layer']}, a plain vision transformer's is gelu")
    size = args.get("img_size") or (cfg["input_size"][1:] if cfg.get("input_size") else None)
    heads = args.get("num_heads")
    if heads is None and config.get("architecture"):
        from . import timm  # timm takes seconds to import

        heads = timm.heads(str(config["architecture"]))
    return Metadata(heads, _pair(size), _floats(cfg.get("mean")), _floats(cfg.get("std")), config.get("norm_eps", 1e-6))


def _metadata_of_hugging_face(config: Mapping[str, Any], images: Mapping[str, Any]) -> Metadata:
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"its hidden_act is {config['hidden_act']}, a plain vision transformer's is gelu")
    mean, std = _floats(images.get("image_mean")), _floats(images.get("image_std"))
    if mean and std and not images.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    if mean and std:  # of values in [0, k]
        k = round(255 * (images.get("rescale_factor", 1 / 255) if images.get("do_rescale", True) else 1), 6)
        mean, std = tuple(m / k for m in mean), tuple(s / k for s in std)
    return Metadata(
        config.get("num_attention_heads"),
        _pair(config.get("image_size")),
        mean,
        std,
        config.get("layer_norm_eps", 1e-6),
        config.get("decoder_num_attention_heads"),
    )


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _floats(values: Any) -> tuple[float, ...] | None:
    return tuple(float(v) for v in values) if values else None

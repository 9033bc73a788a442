"""Everything but training, one function a verb: the same names and meanings in Python and on the command line."""

import json as js
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import checkpoint
from .config import ImagesConfig
from .data.dataset import Data, open_data, source_of
from .data.survey import survey
from .evals.features import features
from .evals.knn import knn_of_features
from .exports import to_timm
from .log import Terminal
from .methods import METHODS
from .nn.vit import SIZES, ViT
from .recipes import RECIPES
from .train import default_workers
from .weights import encoder_config, load_encoder, run_of


def load(where: str | Path) -> ViT:
    """The encoder of a run, a checkpoint or an export: images [B, C, H, W] in [0, 1] -> class token, patch tokens."""
    return load_encoder(Path(where))


def knn(
    where: Path,
    data: str,
    json: Path | None = None,
    k: int = 20,
    temperature: float = 0.07,
    images: ImagesConfig | None = None,
) -> dict[str, float]:
    """Weighted nearest-neighbour accuracy (DINO's protocol): training images vote on held-out ones.

    Args:
        where: a run, a checkpoint or an exported directory
        data: images with labels; a "val" or "test" split is held out, else a share by a hash of the name
        json: write the numbers there as well (a run keeps its own in evals/)
        k: neighbours that vote
        temperature: of the votes' weights, exp(cosine / temperature)
        images: how the data is read
    """
    encoder, opened = _encoder_and_data(where, data, images)
    labels = opened.labels
    if labels is None:
        raise ValueError(f"{data}: it has no labels: kNN needs class folders, or a label column")
    if not len(opened.held_out):
        raise ValueError(f"{data}: nothing is held out, so there is nothing to classify; set --images.holdout")
    parts = []
    for what, which in (("training images", opened.train), ("held-out images", opened.held_out)):
        with Terminal().bar(what) as tick:
            which = which[labels[which] >= 0]
            parts.append(features(encoder, opened.images, which, workers=default_workers(opened), progress=tick))
    bank, asked = parts
    numbers = knn_of_features(bank, asked, labels, len(opened.classes), k, temperature)
    counts = np.bincount(labels[asked.indices])
    facts = {
        **numbers,
        "largest_class": float(counts.max() / counts.sum()),
        "protocol": f"weighted {k}-NN, cosine, temperature {temperature:g}, centre crop at {encoder.config.image_size}",
        "bank": len(bank.indices),
        "queries": len(asked.indices),
        "classes": len(opened.classes),
    }
    write_evaluation(facts, where, "knn", json)
    for name, value in numbers.items():
        print(f"{name.replace('_', ' '):18} {value:6.2%}")
    print(f"{'largest class':18} {facts['largest_class']:6.2%}   ({len(bank.indices)} vote on {len(asked.indices)})")
    return numbers


def embed(
    where: Path,
    data: str,
    out: Path,
    tokens: Literal["mean_patch", "class_token"] = "mean_patch",
    overwrite: bool = False,
    images: ImagesConfig | None = None,
) -> Path:
    """The features of every image as a parquet file: name, embedding, label.

    Args:
        where: a run, a checkpoint or an exported directory
        data: folder, list or table of images
        out: the file to write
        tokens: mean of the patch tokens, or the class token
        overwrite: replace `out` when it exists
        images: how the data is read
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it")
    encoder, opened = _encoder_and_data(where, data, images)
    with Terminal().bar("images") as tick:
        every = np.arange(len(opened.images))
        found = features(encoder, opened.images, every, workers=default_workers(opened), progress=tick)
    source, values = opened.images.source, getattr(found, tokens)
    numbers = opened.labels[found.indices] if opened.labels is not None else np.full(len(found.indices), -1)
    labels = [opened.classes[c] if c >= 0 else None for c in numbers]
    table = pa.table(
        {
            "name": pa.array([source.names[int(i)] for i in found.indices]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.flatten().numpy()), values.shape[1]),
            "label": pa.array(labels, pa.string()),
        }
    )
    half = out.with_name(f".writing-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, half)
    half.replace(out)
    print(f"{out}: {len(table):,} embeddings of width {values.shape[1]}" + _left_out(found.skipped))
    return out


def export(where: Path, out: Path, to: Literal["timm"] = "timm", overwrite: bool = False) -> Path:
    """Hand the encoder to another library; done means: loaded there and compared on a batch.

    Args:
        where: a run or a checkpoint
        out: directory to write
        to: timm: model.safetensors and config.json that `timm.create_model("local-dir:OUT", pretrained=True)` opens
        overwrite: replace `out` when it exists
    """
    encoder = load_encoder(where)
    if out.exists():
        if not overwrite:
            raise ValueError(f"{out}: exists already; --overwrite replaces it")
        if any(out.iterdir()) and not (out / "config.json").exists():
            raise ValueError(f"{out}: holds something else than an exported model and is not replaced")
    difference = to_timm(encoder, out, overwrite)
    print(f"{out}: done; timm's features are ours to {difference:.1e}. In Python:")
    print(f'  timm.create_model("local-dir:{out}", pretrained=True)')
    return out


def inspect(data: str, images: ImagesConfig | None = None) -> None:
    """What is in there: counts, sizes, channels, unreadable files, duplicates. Every image is decoded.

    Args:
        data: folder, list or table of images
        images: how the data is read
    """
    images = images or ImagesConfig()
    terminal = Terminal()
    with terminal.bar("looking for images") as tick:
        source = source_of(data, images, lambda found: tick(found, 0))
    with terminal.bar("looking at images") as tick:
        found = survey(source, sample=None, pages=images.pages, duplicates=True, progress=tick)
    for line in (*source.notes, *found.lines()):
        print(line)
    if source.classes and source.labels is not None:
        for i, name in enumerate(source.classes):
            print(f"  {name}: {int((source.labels == i).sum()):,}")


def listing(what: Literal["methods", "models", "recipes"]) -> None:
    """Methods, models or recipes by name.

    Args:
        what: methods, models or recipes
    """
    if what == "methods":
        for name, method in METHODS.items():
            print(f"{name:12} {(sys.modules[method.__module__].__doc__ or '').splitlines()[0]}")
    elif what == "models":
        for name, size in SIZES.items():
            print(f"{name:12} width {size.dim}, {size.depth} blocks, {size.heads} heads")
    else:
        for name, recipe in RECIPES.items():
            print(f"{name:12} {(recipe.__doc__ or '').splitlines()[0]}")
        print("without --recipe, settings are chosen from the number and size of your images, and printed")


def write_evaluation(facts: dict[str, Any], where: Path, kind: str, json: Path | None) -> None:
    """Numbers with the command that made them: to `json`, and into evals/ when `where` is a run."""
    facts = {**facts, "weights": str(where), "command": sys.argv, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    targets = [json] if json else []
    if (where / "config.yaml").exists() and (where / "checkpoints").is_dir():
        targets.append(where / "evals" / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}.json")
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(target, js.dumps(facts, indent=1).encode())


def _encoder_and_data(where: Path, data: str, images: ImagesConfig | None) -> tuple[ViT, Data]:
    """The encoder on this machine's device, and images as it wants them."""
    config, asked = encoder_config(where), images or ImagesConfig()
    asked = replace(asked, channels=config.channels, mean=config.mean, std=config.std, memory=0)  # each is read once
    if not (where / "config.json").exists():
        trained = run_of(where).images
        asked = replace(asked, bits=asked.bits or trained.bits, pages=trained.pages)
    opened = open_data(data, asked, config.image_size, Terminal())
    return load_encoder(where).to("cuda" if torch.cuda.is_available() else "cpu"), opened


def _left_out(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    name, reason = skipped[0]
    return f"; {len(skipped)} images could not be read and are left out ({name}: {reason})"

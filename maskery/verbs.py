"""Everything but training, one function a verb: the same names and meanings in Python and on the command line."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .config import ImagesConfig
from .data.dataset import Data, open_data, source_of
from .data.encode import Encoding, Format
from .data.pack import pack_source
from .data.remote import is_url
from .data.survey import survey
from .evals.features import features
from .evals.few import Few
from .evals.few import draws as few_draws
from .evals.knn import TOKENS, knn_repeated
from .evals.metrics import refuse_nan
from .evals.results import Result, fingerprint
from .evals.results import write as write_result
from .evals.splits import labelled
from .evals.splits import overlap as find_overlap
from .exports import to_timm
from .log import Terminal
from .methods import METHODS
from .nn.vit import SIZES, ViT
from .recipes import RECIPES
from .train import default_workers
from .weights import images_of, load_encoder

READ = ImagesConfig()  # how data is read when nothing else is said


def load(where: str | Path) -> ViT:
    """The encoder of a run or of weights from elsewhere: images [B, C, H, W] in [0, 1] -> class token, patch tokens."""
    return load_encoder(Path(where))


def knn(
    where: Path,
    data: str,
    json: Path | None = None,
    k: int = 20,
    temperature: float = 0.07,
    tokens: Literal["mean_patch", "class_token", "both", "all"] = "all",
    labels: str | None = None,
    shots: int | None = None,
    draws: int = 5,
    seed: int = 0,
    overlap: bool = True,
    images: ImagesConfig = READ,
) -> dict[str, float]:
    """Weighted nearest-neighbour accuracy (DINO's protocol): training images vote on held-out ones.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
        data: images with labels; a "val" or "test" split is held out, else a share by a hash of the name
        json: write the numbers there as well (a run keeps its own in evals/)
        k: neighbours that vote
        temperature: of the votes' weights, exp(cosine / temperature)
        tokens: features that are compared: mean of the patch tokens, class token, both side by side, or each of these
        labels: only this share of each class votes, like 1%
        shots: only so many images of each class vote
        draws: how often the voting images of --labels or --shots are drawn
        seed: of the first draw; the others count up from it
        overlap: look for held-out images that are training images too
        images: how the data is read
    """
    few = Few.of(labels, shots)
    if draws < 1:
        raise ValueError(f"draws is {draws}: at least 1")
    encoder, opened = _encoder_and_data(where, data, images)
    device, source, terminal = encoder.mean.device, opened.images.source, Terminal()
    if opened.labels is None:
        raise ValueError(f"{data}: it has no labels: kNN needs class folders, or a label column")
    if not len(opened.held_out):
        raise ValueError(f"{data}: nothing is held out, so there is nothing to classify; set --images.holdout")
    voters = labelled(opened.labels, opened.train, opened.classes, f"{data}: training images")
    asking = labelled(opened.labels, opened.held_out, opened.classes, f"{data}: held-out images", several=False)
    drawn = few_draws(opened.labels, voters, opened.classes, few, range(seed, seed + draws)) if few else []
    notes = list(drawn[0].notes) if drawn else []
    if overlap:
        with terminal.bar("comparing files") as tick:
            same = find_overlap(source, voters, source, asking, tick).sentence()
        notes += [same] if same else []
    needed = np.unique(np.concatenate([d.indices for d in drawn])) if drawn else voters
    parts = []
    for what, which in (("training images", needed), ("held-out images", asking)):
        with terminal.bar(what) as tick:
            parts.append(features(encoder, opened.images, which, workers=default_workers(opened), progress=tick))
        for found in (parts[-1].mean_patch, parts[-1].class_token):
            refuse_nan(found, f"{data}: features", lambda i: source.names[int(parts[-1].indices[i])])
    bank, asked = parts
    voting = {d.seed: d.indices for d in drawn} or {seed: voters}
    least = min(len(who) for who in voting.values())
    notes += [f"only {least} images vote: fewer than k = {k}, so all of them do"] if least < k else []
    chosen = TOKENS if tokens == "all" else (tokens,)
    by_seed = knn_repeated(
        bank, asked, opened.labels, len(opened.classes), voting, k, temperature, chosen, device=device
    )
    largest = float(np.bincount(opened.labels[asked.indices]).max() / len(asked.indices))
    protocol = f"weighted {k}-NN, cosine, temperature {temperature:g}, centre crop at {encoder.config.image_size}"
    result = Result.repeated(
        {s: found | {"largest_class": largest} for s, found in by_seed.items()},
        evaluation="knn",
        protocol=protocol + (f", {few}, {draws} draws" if few else ""),
        data=data,
        fingerprint=fingerprint(source, voters, asking),
        weights=str(where),
        counts={"bank": least, "queries": len(asked.indices), "classes": len(opened.classes)},
        notes=notes,
        device=str(device),
    )
    write_result(result, where, json)
    for note in notes:
        terminal.say(note)
    for name in by_seed[seed]:
        value = result.numbers[name]
        spread = np.std([found[name] for found in by_seed.values()], ddof=1) if len(by_seed) > 1 else None
        print(f"{name.replace('_', ' '):25} {value:6.2%}" + (f" ± {spread:.2%}" if spread is not None else ""))
    print(f"{'largest class':25} {largest:6.2%}   ({least} vote on {len(asked.indices)})")
    return dict(result.numbers)


def embed(
    where: Path,
    data: str,
    out: Path,
    tokens: Literal["mean_patch", "class_token"] = "mean_patch",
    overwrite: bool = False,
    images: ImagesConfig = READ,
) -> Path:
    """The features of every image as a parquet file: name, embedding, label.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
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
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
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


def inspect(data: str, images: ImagesConfig = READ) -> None:
    """What is in there: counts, sizes, channels, unreadable files, duplicates. Every image is decoded.

    Args:
        data: folder, list or table of images
        images: how the data is read
    """
    terminal = Terminal()
    with terminal.bar("looking for images") as tick:
        source = source_of(data, images, lambda found: tick(found, 0))
    with terminal.bar("looking at images") as tick:
        found = survey(source, sample=None, pages=images.pages, duplicates=True, progress=tick)
    with terminal.bar("comparing checksums") as tick:
        damaged = source.damaged(tick)
    for line in (*source.notes, *found.lines()):
        print(line)
    if source.classes and source.labels is not None:
        for i, name in enumerate(source.classes):
            print(f"  {name}: {int((source.labels == i).sum()):,}")
    if damaged:
        raise ValueError(f"{data}: {'; '.join(damaged)}")


def pack(
    data: str,
    out: Path,
    short_side: int = 256,
    format: Format = "jpeg",
    quality: int = 90,
    shard_mb: int = 256,
    workers: int | None = None,
    overwrite: bool = False,
    images: ImagesConfig = READ,
) -> Path:
    """A faster copy of a data set: upright, at a short side of your choice, in Arrow shards that other tools read.
    Interrupted, the same command goes on.

    Args:
        data: folder, list or table of images
        out: directory to write
        short_side: pixels; smaller images are not enlarged; 0: full size
        format: jpeg (16 bits, alpha and many bands are packed without loss), or raw pixels
        quality: of JPEG, 1 to 100
        shard_mb: megabytes of a shard
        workers: processes; None: one a core
        overwrite: replace the pack that is in `out`
        images: how the data is read
    """
    how = Encoding(short_side, format, quality, images.channels, images.bits, images.pages)
    if is_url(out):
        raise ValueError(f"{out}: a pack is written to a local directory; copy it to where it is to be read from")
    terminal = Terminal()
    with terminal.bar("looking for images") as tick:
        source = source_of(data, images, lambda found: tick(found, 0))
    packed, kinds = pack_source(
        source,
        out,
        how,
        terminal,
        shard_mb=shard_mb,
        workers=workers,
        unreadable=images.unreadable,
        overwrite=overwrite,
    )
    size = sum(shard.bytes for shard in packed.manifest.shards) / 1e9
    print(
        f"{out}: {len(packed):,} images in {len(packed.manifest.shards)} shards, {size:.2f} GB "
        f"({', '.join(f'{name} {n:,}' for name, n in kinds.most_common()) or 'none readable'})"
    )
    if packed.manifest.unreadable:
        print(f"{packed.manifest.unreadable:,} could not be read: {out / 'skipped.jsonl'}")
    return out


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


def _encoder_and_data(where: Path, data: str, images: ImagesConfig) -> tuple[ViT, Data]:
    """The encoder on this machine's device, and images as it wants them."""
    encoder = load_encoder(where)
    config, trained = encoder.config, images_of(where)
    asked = replace(images, channels=config.channels, mean=config.mean, std=config.std, memory=0)  # each is read once
    if trained:
        asked = replace(asked, bits=asked.bits or trained.bits, pages=trained.pages)
    opened = open_data(data, asked, config.image_size, Terminal())
    return encoder.to("cuda" if torch.cuda.is_available() else "cpu"), opened


def _left_out(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    name, reason = skipped[0]
    return f"; {len(skipped)} images could not be read and are left out ({name}: {reason})"

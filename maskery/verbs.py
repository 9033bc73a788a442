"""Everything but training, one function a verb: the same names and meanings in Python and on the command line."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .beside import open_for
from .config import ImagesConfig
from .data.dataset import source_of
from .data.encode import Encoding, Format
from .data.pack import pack_source
from .data.remote import is_url
from .data.survey import label_lines, survey
from .encoder import Encoder
from .evals.features import features
from .exports.export import Kind, export_to, refuse
from .exports.hub import push as upload
from .exports.hub import refuse_name
from .exports.source import ENCODER, source_at
from .log import Terminal
from .methods import METHODS
from .nn.vit import SIZES
from .options import UsageError
from .recipes import RECIPES
from .weights import encoder_of, images_of, load_encoder, open_weights

READ = ImagesConfig()  # how data is read when nothing else is said


def load(where: str | Path) -> Encoder:
    """The encoder of a run or of weights from elsewhere: a torch module in eval mode, on the CPU. Of a classifier, too:
    `maskery.classifier` gives the whole of it.

    `.features(images)` takes paths, PIL images, arrays and tensors of any sizes; called with images [B, C, H, W] in
    [0, 1] of its own size it gives class token [B, D] and patch tokens [B, N, D].
    """
    encoder = encoder_of(open_weights(Path(where)), kind=Encoder)
    encoder.reading = images_of(Path(where)) or READ
    return encoder


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
    encoder, terminal = load_encoder(where), Terminal()
    opened = open_for(encoder, where, data, images, terminal)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    with terminal.bar("images") as tick:
        every = np.arange(len(opened.images))
        found = features(encoder, opened.images, every, workers=opened.workers(), progress=tick)
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


def export(
    where: str | Path,
    out: str | Path,
    to: Kind = "timm",
    overwrite: bool = False,
    push: str | None = None,
    public: bool = False,
) -> Path:
    """Hand the encoder to another library, or the classifier of `maskery eval finetune` and `probe`; done means: loaded
    there and compared on a batch. With a model card.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md). Of the
            run of a classifier, RUN/evals/finetune/end-seed0, the whole of it; WHERE#encoder: its encoder alone
        out: directory to write
        to: timm: what `timm.create_model("local-dir:OUT", pretrained=True)` opens; hf: transformers' ViTModel, or
            ViTForImageClassification, with its image processor; hf-mae: ViTMAEForPreTraining, with the decoder; onnx: a
            graph for ONNX Runtime; safetensors: the tensors alone
        overwrite: replace `out` when it exists
        push: OWNER/NAME at the Hugging Face hub to upload it to as well
        public: let everybody see it there; otherwise a new repository is private
    """
    where, out = Path(where), Path(out)
    refuse(out, overwrite)
    if public and not push:
        raise UsageError("--public is for --push OWNER/NAME")
    if push:
        refuse_name(push)
    source = source_at(where)
    done = export_to(to, source, out, overwrite)
    print(f"{out}: done; {done.compared} to {done.difference:.1e}. It takes {done.sizes}")
    if source.classifier:
        print(f"A classifier of {len(source.classifier.like.classes)} classes; {where}#{ENCODER} is its encoder alone")
    for limit in done.limits:
        print(f"{limit}")
    print("In Python:\n" + textwrap.indent(done.load, "  "))
    if push:
        where_to = upload(source, done, out, push, public=public)
        print(f"{where_to}: uploaded, {'public' if public else 'private unless it was public before'}")
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
    for line in (*source.notes, *found.lines(), *label_lines(source)):
        print(line)
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


def _left_out(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    name, reason = skipped[0]
    return f"; {len(skipped)} images could not be read and are left out ({name}: {reason})"

"""`maskery embed`: write the features of every image to a parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..config import ImagesConfig
from ..evals.candidates import open_images_for
from ..evals.features import features
from ..terminal import Terminal
from ..weights.load import load_encoder

DEFAULT_IMAGES = ImagesConfig()  # how data is read unless options say otherwise


def embed(
    where: Path,
    data: str,
    out: Path,
    tokens: Literal["mean_patch", "class_token"] = "mean_patch",
    overwrite: bool = False,
    images: ImagesConfig = DEFAULT_IMAGES,
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
    opened = open_images_for(encoder, where, data, images, terminal)
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


def _left_out(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    name, reason = skipped[0]
    return f"; {len(skipped)} images could not be read and are left out ({name}: {reason})"

"""`maskery embed`: write the features of every image to a parquet file."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..config import DEFAULT_IMAGES, ImagesConfig
from ..evals.candidates import open_images_for
from ..evals.eval_pass import InferenceOptions, skipped_notes
from ..evals.features import features
from ..outputs import partial_path
from ..terminal import Terminal
from ..weights.load import load_encoder

Tokens = Literal["mean_patch", "class_token"]


def embed(
    where: Path,
    data: str,
    out: Path,
    tokens: Tokens = "mean_patch",
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
        indices = np.arange(len(opened.images))
        embedded = features(encoder, opened.images, indices, InferenceOptions(workers=opened.workers(), progress=tick))
    values: torch.Tensor = getattr(embedded, tokens)
    labels = opened.labels[embedded.indices] if opened.labels is not None else np.full(len(embedded.indices), -1)
    table = pa.table(
        {
            "name": pa.array([opened.images.source.names[int(i)] for i in embedded.indices]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.flatten().numpy()), values.shape[1]),
            "label": pa.array([opened.classes[c] if c >= 0 else None for c in labels], pa.string()),
        }
    )
    with partial_path(out) as partial:
        pq.write_table(table, partial)
    note = "".join(f"; {note}" for note in skipped_notes(embedded.skipped))
    print(f"{out}: {len(table):,} embeddings of width {encoder.config.dim}{note}")
    return out

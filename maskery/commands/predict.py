"""`maskery predict`: a classifier's answer for every image of a data set, as a table that is written image by image.

n images, M classes
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..config import DEFAULT_IMAGES, ImagesConfig
from ..data.crops import CenterCrop
from ..data.dataset import ImageData, open_data
from ..evals.classify import logit_batches
from ..evals.eval_pass import EvalPass, InferenceOptions
from ..inference.classifier import Classifier, Prediction, load_classifier
from ..nn.linear_classifier import probabilities
from ..options import UsageError
from ..outputs import partial_path
from ..terminal import Terminal
from ..text import readable

Rows = Sequence[Prediction]
Skipped = list[tuple[str, str]]  # (name, reason)


def predict(where: Path, data: str, out: Path, overwrite: bool = False, images: ImagesConfig = DEFAULT_IMAGES) -> Path:
    """A classifier's label and its probability for every image: name, label, probability.

    Where an image may have several labels, all from a probability of one half on, in a .csv like `cat|dog`, or `|`
    for none. What cannot be read is listed beside it: FILE-skipped.jsonl.

    Args:
        where: the run of a classifier, RUN/evals/finetune/end-seed0, or what `export --to safetensors|timm` made of it
        data: folder, list or table of images; labels are not needed
        out: the file to write, .csv or .parquet
        overwrite: replace `out` when it exists
        images: how the data is read; channels and bits are the classifier's
    """
    skipped_file = out.with_name(f"{out.stem}-skipped.jsonl")
    if out.suffix not in WRITERS:
        raise UsageError(f"--out {out}: a file ending in {' or '.join(WRITERS)} is wanted")
    for file in (out, skipped_file):
        if file.is_dir():
            raise ValueError(f"{file}: is a directory and is not replaced")
        if file.exists() and not overwrite:
            raise ValueError(f"{file}: exists already; --overwrite replaces it")
    terminal, count = Terminal(), 0
    classifier = load_classifier(where).to("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_data(data, replace(classifier.image_config(images), labels=False), classifier.size, terminal)
    skipped: Skipped = []
    with partial_path(out) as partial, WRITERS[out.suffix](partial, classifier.multilabel) as write:
        for rows in predictions(classifier, opened, skipped, terminal):
            write(rows)
            count += len(rows)
    skipped_file.unlink(missing_ok=True)
    note = ""
    if skipped:
        lines = (json.dumps({"name": readable(name), "reason": reason}) for name, reason in skipped)
        skipped_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        note = f"; {len(skipped):,} could not be read: {skipped_file}"
    print(f"{out}: {count:,} images, {len(classifier.classes)} classes{note}")
    return out


def predictions(classifier: Classifier, data: ImageData, skipped: Skipped, terminal: Terminal) -> Iterator[Rows]:
    """Yield the predictions for all images batch by batch, then add to `skipped` those that cannot be read."""
    names, device = data.images.source.names, classifier.network.encoder.mean.device
    crop = CenterCrop(classifier.size, classifier.crop_fraction)
    with terminal.bar("images") as tick:
        options = InferenceOptions(device, workers=data.workers(), progress=tick)
        crops = EvalPass.of(data.images, np.arange(len(data.images)), crop, options)
        for indices, logits in logit_batches(classifier.classify, crops):
            rows = zip(indices.tolist(), probabilities(logits, classifier.multilabel), strict=True)
            yield [classifier.prediction(readable(names[int(i)]), row) for i, row in rows]
    skipped += crops.skipped


@contextmanager
def csv_writer(file: Path, multilabel: bool) -> Iterator[Callable[[Rows], None]]:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "label", "probability"])

        def write(rows: Rows) -> None:
            writer.writerows([r.name, r.label, "|".join(f"{r.probabilities[n]:.6g}" for n in r.labels)] for r in rows)

        yield write


@contextmanager
def parquet_writer(file: Path, multilabel: bool) -> Iterator[Callable[[Rows], None]]:
    label, probability = (pa.list_(t) if multilabel else t for t in (pa.string(), pa.float32()))
    schema = pa.schema({"name": pa.string(), "label": label, "probability": probability})
    with pq.ParquetWriter(file, schema) as writer:

        def write(rows: Rows) -> None:
            if rows:
                labels = [r.labels if multilabel else r.label for r in rows]
                values = [[r.probabilities[n] for n in r.labels] if multilabel else r.probability for r in rows]
                writer.write_table(pa.table([[r.name for r in rows], labels, values], schema=schema))

        yield write


WRITERS = {".csv": csv_writer, ".parquet": parquet_writer}

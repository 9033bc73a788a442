"""`maskery predict`: what a classifier says of every image of a data set, as a table that is written while it goes on.

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

from ..config import ImagesConfig
from ..data.dataset import open_data
from ..evals.classify import streamed
from ..inference.classifier import classifier_at
from ..inference.predictor import Prediction, predicted
from ..nn.linear_classifier import shares
from ..options import UsageError
from ..terminal import Terminal
from ..text import to_bytes
from .robustness import read_for

Rows = Sequence[Prediction]


READ = ImagesConfig()  # how images are read when no option says otherwise


def predict(where: Path, data: str, out: Path, overwrite: bool = False, images: ImagesConfig = READ) -> Path:
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
    if out.suffix not in WRITERS:
        raise UsageError(f"--out {out}: a file ending in {' or '.join(WRITERS)} is wanted")
    for file in (out, beside(out)):
        if file.is_dir():
            raise ValueError(f"{file}: is a directory and is not replaced")
        if file.exists() and not overwrite:
            raise ValueError(f"{file}: exists already; --overwrite replaces it")
    terminal = Terminal()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = classifier_at(where).to(device)
    asked = replace(read_for(classifier, images), labels=False)
    opened = open_data(data, asked, classifier.size, terminal)
    names, several = opened.images.source.names, classifier.several
    count, skipped = 0, []
    with whole(out) as half, WRITERS[out.suffix](half, several) as write, terminal.bar("images") as tick:
        for part in streamed(
            classifier.classify,
            opened,
            np.arange(len(opened.images)),
            classifier.size,
            device,
            share=classifier.share,
            workers=opened.workers(),
            progress=tick,
        ):
            skipped += part.skipped
            rows = zip(part.indices.tolist(), shares(part.logits, several), strict=True)
            found = [predicted(readable(names[int(i)]), row, classifier.classes, several) for i, row in rows]
            write(found)
            count += len(found)
        if not count:
            raise ValueError(f"{data}: none of the {len(skipped)} images can be read")
    print(f"{out}: {count:,} images, {len(classifier.classes)} classes" + _list_skipped(skipped, out))
    return out


def beside(out: Path) -> Path:
    """Where the images are listed that could not be read."""
    return out.with_name(f"{out.stem}-skipped.jsonl")


def readable(name: str) -> str:
    """A file's name as text that every reader takes, also where it is none."""
    return to_bytes(name).decode("utf-8", "backslashreplace")


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A file beside `out` to write, which takes its name when nothing went wrong."""
    half = out.with_name(f".writing-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield half
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def as_csv(file: Path, several: bool) -> Iterator[Callable[[Rows], None]]:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "label", "probability"])

        def write(rows: Rows) -> None:
            writer.writerows([r.name, r.label, "|".join(f"{r.probabilities[n]:.6g}" for n in r.labels)] for r in rows)

        yield write


@contextmanager
def as_parquet(file: Path, several: bool) -> Iterator[Callable[[Rows], None]]:
    label, probability = (pa.list_(t) if several else t for t in (pa.string(), pa.float32()))
    schema = pa.schema({"name": pa.string(), "label": label, "probability": probability})
    with pq.ParquetWriter(file, schema) as writer:

        def write(rows: Rows) -> None:
            if rows:
                labels = [r.labels if several else r.label for r in rows]
                each = [[r.probabilities[n] for n in r.labels] if several else r.probability for r in rows]
                writer.write_table(pa.table([[r.name for r in rows], labels, each], schema=schema))

        yield write


WRITERS = {".csv": as_csv, ".parquet": as_parquet}


def _list_skipped(skipped: Sequence[tuple[str, str]], out: Path) -> str:
    """Write FILE-skipped.jsonl, or remove what an earlier one left."""
    file = beside(out)
    if not skipped:
        file.unlink(missing_ok=True)
        return ""
    lines = (json.dumps({"name": readable(name), "reason": reason}) for name, reason in skipped)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"; {len(skipped):,} could not be read: {file}"

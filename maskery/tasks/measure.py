"""What a finished run of a task is worth: what it says about all held-out images, as a result."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data.dataset import open_data
from ..evals.results import Result, fingerprint, write
from ..pictures.learning_curves import learning_curves
from ..runs.directory import open_run
from ..terminal import Quiet
from .checkpoint import load_objective
from .classification import report as classification
from .detection import report as detection
from .segmentation import report as segmentation
from .vqa import report as vqa

RESULT = "result.json"
OF: dict[str, Any] = {  # task -> (its answers as `Found`, its protocol in words)
    "probe": (classification.classified, classification.protocol),
    "finetune": (classification.classified, classification.protocol),
    "segment": (segmentation.segmented, segmentation.protocol),
    "detect": (detection.found_objects, detection.protocol),
    "vqa": (vqa.answered, vqa.protocol),
}


def measure(where: Path, device: torch.device, of: str, weights: str) -> Result:
    """Measure the run of a task where it was best, and write its evals/: result.json, tables' pictures, curves.png."""
    directory = open_run(where)
    run = directory.run
    task = load_objective(directory).to(device)
    opened = open_data(run.data, replace(run.images, memory=0.0), run.size, Quiet())
    _, data = task.prepared(run.settings, opened)
    precision = torch.bfloat16 if run.precision == "bf16" else torch.float32
    evals = where / "evals"
    evals.mkdir(exist_ok=True)
    answers, protocol = OF[run.method]
    found = answers(task, run, data, evals, precision, data.workers())
    notes = list(found.notes)
    if found.skipped:
        notes.append(f"{found.skipped} of {len(data.held_out)} held-out images could not be read and are left out")
    counts = {"train": len(data.train), "tune": len(data.validation), "held_out": len(found.indices)}
    result = Result(
        evaluation=run.method,
        numbers=found.numbers,
        protocol=protocol(run),
        data=run.data,
        fingerprint=fingerprint(opened.images.source, opened.train, found.indices, found.truth),
        weights=weights,
        of=of,
        seed=run.seed,
        shown=f"{task.encoder.config.channels} x {run.size[0]} x {run.size[1]}",
        counts=counts | {"classes": len(run.settings.labels.names)},
        notes=notes,
        tables=found.tables,
        device=str(device),
    )
    learning_curves(where)
    write(result, None, evals / RESULT)
    return result

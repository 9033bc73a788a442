"""Measure a finished run of a task on all held-out images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..config import Run
from ..data.dataset import SurveyedSource, load_data, survey_source
from ..evals.results import Result, fingerprint, write_result
from ..pictures.plots import learning_curves
from ..runs.directory import open_run
from ..runs.metrics import read_rows
from ..terminal import Quiet
from .checkpoint import load_objective
from .classification.report import classification_protocol, measure_classifier
from .detection.report import detection_protocol, measure_detector
from .outcome import Outcome
from .segmentation.report import measure_segmenter, segmentation_protocol
from .vqa.report import measure_vqa, vqa_protocol

RESULT = "result.json"
# Each task is measured by a function of (objective in eval mode, data, directory for files, options of inference), and
# says how it was trained and measured: the same for all that can be compared.
REPORTS: dict[str, tuple[Callable[..., Outcome], Callable[[Run], str]]] = {
    "probe": (measure_classifier, classification_protocol),
    "finetune": (measure_classifier, classification_protocol),
    "segment": (measure_segmenter, segmentation_protocol),
    "detect": (measure_detector, detection_protocol),
    "vqa": (measure_vqa, vqa_protocol),
}


def measure(where: Path, device: torch.device, of: str, weights: str, surveyed: SurveyedSource | None = None) -> Result:
    """Measure the run at WHERE at its best checkpoint, and write its evals/: result.json, pictures, curves.png.

    `surveyed`: the source of the run's data, where it is open already.
    """
    directory = open_run(where)
    run = directory.run
    measure_task, protocol = REPORTS[run.method]
    task = load_objective(directory).to(device)
    surveyed = surveyed or survey_source(run.data, run.images, Quiet())
    opened = load_data(surveyed, replace(run.images, memory=0.0), run.size, Quiet())
    _, data = task.prepare(run.settings, opened)
    precision = torch.bfloat16 if run.precision == "bf16" else torch.float32
    evals = where / "evals"
    evals.mkdir(exist_ok=True)
    outcome = measure_task(task, data, evals, precision=precision, workers=data.workers())
    notes = list(outcome.notes)
    if outcome.skipped:
        notes.append(f"{outcome.skipped} of {len(data.held_out)} held-out images could not be read and are left out")
    counts = {"train": len(data.train), "tune": len(data.validation), "held_out": len(outcome.indices)}
    result = Result(
        evaluation=run.method,
        numbers=outcome.numbers,
        protocol=protocol(run),
        data=run.data,
        fingerprint=fingerprint(opened.images.source, opened.train, outcome.indices, outcome.truth),
        weights=weights,
        of=of,
        seed=run.seed,
        shown=f"{task.encoder.config.channels} x {run.size[0]} x {run.size[1]}",
        counts=counts | {"classes": len(run.settings.labels.names)},
        notes=notes,
        tables=outcome.tables,
        device=str(device),
    )
    learning_curves(read_rows(where / "metrics.jsonl"), where / "curves.png")
    write_result(result, None, evals / RESULT)
    return result

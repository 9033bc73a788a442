"""What question answering that a task has trained says about all held-out questions: numbers, tables, pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config import Run
from ...data.crops import to_float
from ...data.dataset import ImageData, spread
from ...data.sources.vqa_v2 import UNANSWERED, VqaSource
from ...evals.answers import Answers
from ...evals.vqa import Priors, Truth, accuracies, mean, rows
from ...html.answers import Entry, Said, page, sheet
from ...outputs import write_file
from ...terminal import Terminal
from ..found import Found, length_of, said_of_labels
from .objective import Vqa
from .targets import Forms

PAGE, SHEET, QUESTIONS = 48, 12, 8  # images on the page, in the picture; questions of each


def answered(task: Vqa, run: Run, data: ImageData, evals: Path, precision: torch.dtype, workers: int) -> Found:
    """Its answers. Writes predictions.json as VQAv2's server takes them, examples.html and examples.png."""
    source, names = data.images.source, task.names
    assert isinstance(source, VqaSource)
    with Terminal().bar("held-out images") as tick:
        said = task.answers(data, data.held_out, precision=precision, workers=workers, progress=tick)
    questions = [source.question(k) for k in said.numbers]
    scores = [Truth.of(q.answers).score(names[m]) for q, m in zip(questions, said.best, strict=True)]
    forms = Forms(names)
    reachable = [max(forms.worth(q.answers).values(), default=0.0) for q in questions]
    priors = Priors.of(source.question(k) for k in source.numbers(np.concatenate([data.train, data.validation])))
    context = {"reachable": mean(reachable)} | priors.scores(questions)
    results(said, task, source, evals / "predictions.json")
    notes = [
        f"{len(questions):,} held-out questions; without looking at an image: {context['prior']:.1%} by always "
        f"answering {priors.usual!r}, {context['prior_by_type']:.1%} by the usual answer to the type of question, "
        f"{context['prior_by_question']:.1%} by the usual answer to the same question"
    ]
    if context["reachable"] < 1:
        notes.append(f"{context['reachable']:.1%} is the most that the {len(names):,} answers could reach")
    if source.splits is not None and len(unanswered := np.flatnonzero(source.splits == UNANSWERED)):
        more = task.answers(data, unanswered, precision=precision, workers=workers)
        results(more, task, source, evals / "predictions-unanswered.json")
        notes.append(f"{len(more.numbers):,} questions without annotations: evals/predictions-unanswered.json")
    shown = entries(said, scores, task, data, PAGE)
    numbers = accuracies(questions, scores)
    lines = [f"{name.replace('_', ' ')}: {value:.1%}" for name, value in numbers.items()]
    page(shown, evals / "examples.html", "Held-out questions", ["; ".join(lines), *notes])
    sheet(shown[:: max(1, len(shown) // SHEET)][:SHEET], evals / "examples.png", "held-out questions")
    tables = {
        "answer_types": rows([q.answer_type for q in questions], scores, "answer_type"),
        "question_types": rows([q.question_type for q in questions], scores, "question_type"),
    }
    asked = "\n".join(f"{q.number} {q.text} {sorted(q.answers)}" for q in questions)
    return Found(numbers | context, tables, notes, said.indices, len(said.skipped), asked)


def results(said: Answers, task: Vqa, source: VqaSource, path: Path) -> None:
    """[{"question_id", "answer"}], VQAv2's format of results."""
    names = task.names
    each = [
        {"question_id": source.question(k).number, "answer": names[m]}
        for k, m in zip(said.numbers, said.best, strict=True)
    ]
    write_file(path, json.dumps(each).encode())


def entries(said: Answers, scores: list[float], task: Vqa, data: ImageData, most: int) -> list[Entry]:
    """Some of the images, evenly spread, with their first questions."""
    source, names = data.images.source, task.names
    assert isinstance(source, VqaSource)
    at = {k: j for j, k in enumerate(said.numbers)}
    found = []
    for i in spread(said.indices, most).tolist():
        array = data.images.open(i).at(1.0).array
        image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))[0]
        each = []
        for k in source.numbers(np.array([i]))[:QUESTIONS]:
            j, question = at[k], source.question(k)
            truth = Truth.of(question.answers)
            people = dict(sorted(truth.counts.items(), key=lambda item: (-item[1], item[0])))
            each.append(Said(question.text, people, names[said.best[j]], said.sure[j], scores[j]))
        found.append(Entry(str(source.names[i]), image, each))
    return found


def protocol(run: Run) -> str:
    """How it was trained, in words, the same for all that may stand beside each other."""
    settings = run.settings
    text = settings.text or f"{settings.text_layers} layers of text from scratch"
    what = f"answers as {settings.vocabulary:,} classes at most, {text}, {settings.layers} layers of fusion"
    parts: list[Any] = length_of(run)
    if settings.blind:
        what += ", the image not looked at"
    elif settings.freeze:
        what += " on a frozen encoder"
    else:
        parts += [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"]
    if settings.keep < 1:
        parts.append(f"crops of at least {settings.keep:g} of each side")
    parts += [f"up to {settings.questions} questions an image and step", *said_of_labels(run)]
    return f"{what}: {', '.join(parts)}; VQAv2's soft accuracy, whole images at the network's size"

"""Report of question answering: soft accuracies, what is right without looking, predictions, examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...config import Run
from ...data.dataset import ImageData, spread
from ...data.sources.vqa_v2 import UNANSWERED, VqaSource
from ...evals.vqa import Answers, Priors, Truth, accuracies, accuracy_rows, mean
from ...html.answers import Answer, Entry, write_page, write_sheet
from ...outputs import write_file
from ...pictures.strip import whole_image
from ...terminal import Terminal
from ..outcome import Outcome, training_protocol
from .objective import Vqa
from .targets import Forms

PAGE, SHEET, QUESTIONS = 48, 12, 8  # images on the page, in the picture; questions of each


def measure_vqa(task: Vqa, data: ImageData, evals: Path, **options: Any) -> Outcome:
    """Answer all held-out questions. Writes predictions.json, examples.html and examples.png."""
    names, source = task.names, data.images.source
    assert isinstance(source, VqaSource)
    with Terminal().bar("held-out images") as tick:
        answers = task.answers(data, data.held_out, progress=tick, **options)
    questions = [source.question(k) for k in answers.numbers]
    scores = [Truth.of(q.answers).score(names[m]) for q, m in zip(questions, answers.best, strict=True)]
    numbers, (limits, notes) = accuracies(questions, scores), without_looking(questions, names, source, data)
    write_predictions(answers, names, source, evals / "predictions.json")
    if source.splits is not None and len(unanswered := np.flatnonzero(source.splits == UNANSWERED)):
        more = task.answers(data, unanswered, **options)
        write_predictions(more, names, source, evals / "predictions-unanswered.json")
        notes.append(f"{len(more.numbers):,} questions without annotations: evals/predictions-unanswered.json")
    shown = entries(answers, scores, names, data)
    lines = [f"{name.replace('_', ' ')}: {value:.1%}" for name, value in numbers.items()]
    write_page(shown, evals / "examples.html", "Held-out questions", ["; ".join(lines), *notes])
    write_sheet(shown[:: max(1, len(shown) // SHEET)][:SHEET], evals / "examples.png", "held-out questions")
    tables = {
        "answer_types": accuracy_rows([q.answer_type for q in questions], scores, "answer_type"),
        "question_types": accuracy_rows([q.question_type for q in questions], scores, "question_type"),
    }
    truth = "\n".join(f"{q.number} {q.text} {sorted(q.answers)}" for q in questions)
    return Outcome(numbers | limits, answers.indices, len(answers.skipped), tables, notes, truth)


def without_looking(
    questions: list[Any], names: tuple[str, ...], source: VqaSource, data: ImageData
) -> tuple[dict[str, float], list[str]]:
    """What the answers could reach at most, and what the usual answers of training reach without any image."""
    forms = Forms(names)
    reachable = mean([max(forms.worth(q.answers).values(), default=0.0) for q in questions])
    answered = source.numbers(np.concatenate([data.train, data.validation]))
    priors = Priors.of(source.question(k) for k in answered)
    scores = priors.scores(questions)
    notes = [
        f"{len(questions):,} held-out questions; without looking at an image: {scores['prior']:.1%} by always "
        f"answering {priors.overall!r}, {scores['prior_by_type']:.1%} by the usual answer to the type of question, "
        f"{scores['prior_by_question']:.1%} by the usual answer to the same question"
    ]
    if reachable < 1:
        notes.append(f"{reachable:.1%} is the most that the {len(names):,} answers could reach")
    return {"reachable": reachable} | scores, notes


def write_predictions(answers: Answers, names: tuple[str, ...], source: VqaSource, path: Path) -> None:
    """Write [{"question_id", "answer"}], as VQAv2's server takes them."""
    pairs = zip(answers.numbers, answers.best, strict=True)
    results = [{"question_id": source.question(k).number, "answer": names[m]} for k, m in pairs]
    write_file(path, json.dumps(results).encode())


def entries(answers: Answers, scores: list[float], names: tuple[str, ...], data: ImageData) -> list[Entry]:
    """Some of the images, evenly spread, with their first questions."""
    source = data.images.source
    assert isinstance(source, VqaSource)
    position, shown = {k: j for j, k in enumerate(answers.numbers)}, []
    for i in spread(answers.indices, PAGE).tolist():
        rows = []
        for k in source.numbers(np.array([i]))[:QUESTIONS]:
            j, question = position[k], source.question(k)
            counts = Truth.of(question.answers).counts
            people = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            rows.append(Answer(question.text, people, names[answers.best[j]], answers.sure[j], scores[j]))
        shown.append(Entry(str(source.names[i]), whole_image(data, i), rows))
    return shown


def vqa_protocol(run: Run) -> str:
    settings = run.settings
    text = settings.text or f"{settings.text_layers} layers of text from scratch"
    what = f"answers as {settings.vocabulary:,} classes at most, {text}, {settings.layers} layers of fusion"
    image = ", the image not looked at" if settings.blind else " on a frozen encoder" if settings.freeze else ""
    own = [f"crops of at least {settings.keep:g} of each side"] if settings.keep < 1 else []
    own.append(f"up to {settings.questions} questions an image and step")
    trained = training_protocol(run, own, not image)
    return f"{what}{image}: {trained}; VQAv2's soft accuracy, whole images at the network's size"

"""Built-in scenes with questions in VQAv2's layout, for the tests and the pages."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..data.sources.vqa_v2 import TYPES
from .scenes import new_folder, save, scene, splits_of

ANNOTATORS = 10


def write_vqa(root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2) -> Path:
    """Write scenes 0..n-1 as `root/train/scene_train_000000000012.png`, `root/questions_train.json` and
    `root/annotations_train.json`; the last `holdout` of them goes to `val`. All ten annotators know the answer.

    ValueError: a bad number, or `root` is not empty.
    """
    with new_folder(root) as folder:
        for split, indices in splits_of(n, holdout).items():
            questions = []
            for i in indices:
                example = scene(seed, i, size)
                save(example.image, folder / split / f"scene_{split}_{i:012d}.png")
                questions += [(i, question, (answer,) * ANNOTATORS) for question, answer in example.questions]
            write_files(folder, split, questions)
    return Path(root)


def write_files(root: Path, split: str, rows: Sequence[tuple[int | str, str, Sequence[str]]]) -> None:
    """Write (image, question, answers) as VQAv2's two files; ids of questions count from 0."""
    questions, annotations = [], []
    for number, (image, question, answers) in enumerate(rows):
        kind = 0 if answers[0] in ("yes", "no") else 1 if answers[0].isdecimal() else 2
        questions.append({"image_id": image, "question": question, "question_id": number})
        annotations.append(
            {
                "image_id": image,
                "question_id": number,
                "question_type": " ".join(question.split()[:2]),
                "answer_type": TYPES[kind],
                "multiple_choice_answer": answers[0],
                "answers": [{"answer": answer, "answer_id": j + 1} for j, answer in enumerate(answers)],
            }
        )
    facts = {"info": {}, "task_type": "Open-Ended", "data_type": "scenes", "data_subtype": split}
    (root / f"questions_{split}.json").write_text(json.dumps(facts | {"questions": questions}))
    (root / f"annotations_{split}.json").write_text(json.dumps(facts | {"annotations": annotations}))

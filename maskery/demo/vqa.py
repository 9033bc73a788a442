"""Built-in scenes with questions in VQAv2's layout, for the tests and the pages."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.sources.vqa_v2 import TYPES
from .scenes import scene

PEOPLE = 10


def write_vqa(root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2) -> Path:
    """Write scenes 0..n-1 as `root/train/scene_train_000000000012.png`, `root/questions_train.json` and
    `root/annotations_train.json`; the last `holdout` of them goes to `val`. All ten people know the answer.

    ValueError: a bad number, or `root` is not empty.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} exists and is not an empty folder")
    first = n - round(holdout * n)
    for split, indices in (("train", range(first)), ("val", range(first, n))):
        (root / split).mkdir(parents=True, exist_ok=True)
        asked = []
        for i in indices:
            one = scene(seed, i, size)
            Image.fromarray(one.image).save(root / split / f"scene_{split}_{i:012d}.png")
            asked += [(i, question, (answer,) * PEOPLE) for question, answer in one.questions]
        write_files(root, split, asked)
    return root


def write_files(root: Path, split: str, asked: Sequence[tuple[int | str, str, Sequence[str]]]) -> None:
    """(image, question, answers) as VQAv2's two files; numbers of questions count from 0."""
    questions, annotations = [], []
    for number, (image, question, answers) in enumerate(asked):
        questions.append({"image_id": image, "question": question, "question_id": number})
        annotations.append(
            {
                "image_id": image,
                "question_id": number,
                "question_type": " ".join(question.split()[:2]),
                "answer_type": kind(answers[0]),
                "multiple_choice_answer": answers[0],
                "answers": [{"answer": answer, "answer_id": j + 1} for j, answer in enumerate(answers)],
            }
        )
    facts = {"info": {}, "task_type": "Open-Ended", "data_type": "scenes", "data_subtype": split}
    (root / f"questions_{split}.json").write_text(json.dumps(facts | {"questions": questions}))
    (root / f"annotations_{split}.json").write_text(json.dumps(facts | {"annotations": annotations}))


def kind(answer: str) -> str:
    return TYPES[0] if answer in ("yes", "no") else TYPES[1] if answer.isdecimal() else TYPES[2]

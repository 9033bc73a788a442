"""Images with questions, as VQAv2's json files have them: questions in one file, the answers of ten people in another.

n images, q questions
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from ...config import ImagesConfig
from .json_files import find_json, list_of, read_json
from .names import StringArray
from .scan import scan
from .source import SPLITS, Source, read_file

FILES = (
    "*OpenEnded*_{split}*_questions.json",
    "questions_{split}*.json",
    "{split}*_questions.json",
    "questions/*{split}*.json",
    "{split}/questions.json",
)
TEST = ("*OpenEnded*_test2015_questions.json",)  # of VQAv2's two the larger one
TYPES = ("yes/no", "number", "other")  # of answers, VQAv2's
UNANSWERED = "unanswered"  # the split of questions without annotations: they are answered, not measured
WORDS = re.compile(r"(?<![a-z])(train|training|valid|val|validation|test|testing)(?![a-z])")
UNSPECIFIED = "unspecified"  # type of an answer or a question that has none


@dataclass(frozen=True)
class Question:
    text: str
    number: int | str  # question_id
    answers: tuple[str, ...]  # of the annotators; () where there are no annotations
    answer_type: str
    question_type: str


class VqaSource(Source):
    """The images that questions are about, in the order of the files: train, val, test.

    What cannot be used is left out and counted in `notes`. ValueError in one line for files that make no sense.
    """

    def __init__(self, where: str, images: ImagesConfig):
        self.where = where
        given = {"train": images.train_json, "val": images.val_json, "test": images.test_json}
        files = {split: find_json(where, patterns(split), file, split) for split, file in given.items()}
        if files["train"] is None:
            raise ValueError(
                f"{where}: no questions: looked for {', '.join(patterns('train'))}; --images.train-json names another "
                "file"
            )
        index = _Index(ImageFiles(list(scan(where).names)))
        for split, path in files.items():
            if path is None:
                continue
            answers = next((file for file in annotation_files(path) if os.path.isfile(file)), None)
            if answers is None and split != "test":
                raise ValueError(
                    f"{path}: no file of annotations beside it: looked for {' and '.join(annotation_files(path))}"
                )
            index.add(path, split if answers else UNANSWERED, answers)
        if not index.questions:
            why = "; ".join(f"{n:,} {what}" for what, n in index.dropped.items()) or "it has none"
            raise ValueError(f"{files['train']}: none of its questions can be used: {why}")
        self.names = self._paths = StringArray.of([os.fsencode(path) for path in index.questions])
        splits = [index.splits[path] for path in index.questions]
        self.splits = np.array(splits, object) if set(splits) != {"train"} else None
        flat = [row for rows in index.questions.values() for row in rows]
        # [n + 1]: the questions of image i begin there
        self.first = np.cumsum([0, *map(len, index.questions.values())])
        # StringArray: as Python objects they would be copied into every forked worker
        self._texts = StringArray.of([row.text.encode("utf-8", "surrogatepass") for row in flat])
        self._rest = StringArray.of([json.dumps(astuple(row)[1:]).encode() for row in flat])
        self.notes = tuple(self._notes(flat, index.dropped))

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def count(self, indices: np.ndarray) -> int:
        """Count the questions about these images."""
        return int((self.first[indices + 1] - self.first[indices]).sum())

    def numbers(self, indices: np.ndarray) -> list[int]:
        """Positions of the questions about these images, image by image."""
        return [k for i in indices.tolist() for k in range(int(self.first[i]), int(self.first[i + 1]))]

    def question(self, k: int) -> Question:
        number, answers, answer_type, question_type = json.loads(self._rest.raw(k))
        return Question(self.text(k), number, tuple(answers), answer_type, question_type)

    def text(self, k: int) -> str:
        return self._texts.raw(k).decode("utf-8", "surrogatepass")

    def _notes(self, flat: Sequence[Question], dropped: Counter[str]) -> Iterator[str]:
        yield f"{len(flat):,} questions about {len(self):,} images"
        if self.splits is not None and (unanswered := int((self.splits == UNANSWERED).sum())):
            yield f"{unanswered:,} images have questions without annotations: those are answered, and not measured"
        types = Counter(row.answer_type for row in flat if row.answers and row.answer_type not in TYPES)
        if types:
            listed = ", ".join(f"{name!r} ({n:,})" for name, n in types.most_common(5))
            more = f" and {len(types) - 5} more" if len(types) > 5 else ""
            yield f"answers of types that VQAv2 does not have are kept, with a row of their own: {listed}{more}"
        for what, n in dropped.items():
            yield f"{n:,} {what}"


# ---------------------------------------------------------------------------------------------------------- the files
def patterns(split: str) -> tuple[str, ...]:
    return (TEST if split == "test" else ()) + tuple(pattern.format(split=split) for pattern in FILES)


def annotation_files(path: str) -> list[str]:
    """Where the annotations of a file of questions may lie."""
    folder, name = os.path.split(path)
    above = os.path.join(os.path.dirname(folder), "annotations")
    names = dict.fromkeys([name.replace("OpenEnded_", ""), name])
    names = [new for old in names if (new := old.replace("questions", "annotations")) != name]
    files = [os.path.join(f, n) for f in dict.fromkeys([folder, above]) for n in names]
    # questions/train.json, annotations/train.json
    return files + ([os.path.join(above, name)] if os.path.basename(folder) == "questions" else [])


def question_entry(path: str, question: Any) -> tuple[int | str, int | str, str]:
    """(question_id, image_id, text). ValueError where an id is missing; "" where there is no text."""
    number, image = (question.get(name) if isinstance(question, dict) else None for name in ("question_id", "image_id"))
    for value in (number, image):
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise ValueError(f"{path}: a question without question_id or image_id: {str(question)[:80]}")
    text = question.get("question")
    assert number is not None
    assert image is not None
    return number, image, " ".join(text.split()) if isinstance(text, str) else ""


def read_annotations(path: str) -> dict[Any, dict[str, Any]]:
    """By question_id. ValueError where one has none, or two have the same."""
    annotations: dict[Any, dict[str, Any]] = {}
    for annotation in list_of(path, read_json(path), "annotations", "VQAv2's"):
        number = annotation.get("question_id") if isinstance(annotation, dict) else None
        if not isinstance(number, int | str):
            raise ValueError(f"{path}: an annotation without question_id: {str(annotation)[:80]}")
        if number in annotations:
            raise ValueError(f"{path}: two annotations have the question_id {number!r}")
        annotations[number] = annotation
    return annotations


def answers_of(annotation: dict[str, Any]) -> tuple[str, ...]:
    """The answers of the annotators; where none are listed, the most frequent one of them. Numbers become words."""
    listed = answers if isinstance(answers := annotation.get("answers"), list) else []
    answers = [entry.get("answer") if isinstance(entry, dict) else entry for entry in listed]
    answers = answers or [annotation.get("multiple_choice_answer")]
    return tuple(str(answer) for answer in answers if isinstance(answer, str | int | float) and str(answer).strip())


# ------------------------------------------------------------------------------------------------------ their contents
class _Index:
    """The images and questions of the files read so far, and what was left out of them."""

    def __init__(self, files: "ImageFiles"):
        self.files = files
        self.splits: dict[str, str] = {}  # of an image
        self.questions: dict[str, list[Question]] = {}  # of an image
        self.dropped: Counter[str] = Counter()

    def add(self, path: str, split: str, answers: str | None) -> None:
        """Read a file of questions and, where there is one, of their `answers`."""
        tree = read_json(path)
        annotations = read_annotations(answers) if answers else {}
        images: dict[Any, str | None] = {}
        numbers = set()
        for question in list_of(path, tree, "questions", "VQAv2's"):
            number, image, text = question_entry(path, question)
            if number in numbers:
                raise ValueError(f"{path}: two questions have the id {number!r}")
            numbers.add(number)
            if image not in images:
                images[image] = self._image(image, split, tree, path)
            annotation = annotations.get(number, {}) if answers else None
            row = self._answered(Question(text, number, (), "", ""), image, images[image], annotation)
            if row is not None:
                self.questions.setdefault(str(images[image]), []).append(row)
        if strange := len(annotations.keys() - numbers):
            self.dropped["annotations belong to no question and are left out"] += strange
        self.splits = {file: split for file, split in self.splits.items() if file in self.questions}

    def _image(self, image: Any, split: str, tree: dict[str, Any], path: str) -> str | None:
        """The file of an image, None without one. ValueError where a file of another split asks about it too."""
        file = self.files.find(image, split, tree, path)
        if file is None:
            self.dropped["images that questions are about do not exist"] += 1
        elif self.splits.setdefault(file, split) != split:
            raise ValueError(f"{path}: {file} is asked about in two files: held out is held out")
        return file

    def _answered(
        self, row: Question, image: Any, file: str | None, annotation: dict[str, Any] | None
    ) -> Question | None:
        """The question with its answers; None when it is left out and counted. `annotation` None: of a file without."""
        answers = answers_of(annotation) if annotation else ()
        if file is None:
            reason = "questions about images that do not exist are left out"
        elif not row.text:
            reason = "questions without words are left out"
        elif annotation is None:
            return row
        elif not annotation:
            reason = "questions have no annotation and are left out"
        elif annotation.get("image_id", image) != image:
            reason = "annotations name another image than their question: both are left out"
        elif not answers:
            reason = "questions that nobody answered are left out"
        else:
            types = {name: str(annotation.get(name) or UNSPECIFIED) for name in ("answer_type", "question_type")}
            return replace(row, answers=answers, **types)
        self.dropped[reason] += 1
        return None


class ImageFiles:
    """Files by what json calls them: a number at the end of their name, or their name."""

    def __init__(self, paths: Sequence[str]):
        self.paths = frozenset(paths)
        self.by_name: dict[int | str, list[str]] = {}
        for path in paths:
            name = os.path.basename(path)
            stem = os.path.splitext(name)[0]
            digits = re.search(r"\d+$", stem)
            keys: Iterable[int | str] = dict.fromkeys([name, stem, *([int(digits[0])] if digits else [])])
            for key in keys:
                self.by_name.setdefault(key, []).append(path)

    def find(self, image: int | str, split: str, tree: dict[str, Any], json_path: str) -> str | None:
        """The file of an image: in folders, or of a name, that say VQAv2's `data_subtype` or this split.

        None: there is none, or all are of other splits; COCO's numbers mean the same image wherever it lies.
        ValueError: several are as good.
        """
        if image in self.paths:
            return str(image)
        key = int(image) if isinstance(image, str) and image.isdecimal() and image not in self.by_name else image
        paths, subset = self.by_name.get(key, []), str(tree.get("data_subtype") or "")
        wanted = "test" if split == UNANSWERED else split
        for fitting in (
            [path for path in paths if subset and subset in path],
            [path for path in paths if wanted in splits_of(path)],
            [path for path in paths if not splits_of(path)],
            paths if tree.get("data_type") == "mscoco" else [],
        ):
            if len(fitting) > 1:
                raise ValueError(f"{json_path}: image {image!r} may be {fitting[0]} or {fitting[1]}")
            if fitting:
                return fitting[0]
        return None


def splits_of(path: str) -> set[str]:
    """Splits that a path names: train2014/COCO_train2014_000000000009.jpg -> {"train"}."""
    return {SPLITS[word] for word in WORDS.findall(path.lower())}

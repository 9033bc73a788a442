"""Images with questions, as VQAv2's json files have them: questions in one file, what ten people answered in another.

n images, q questions
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coco import json_file, read_tree
from .names import Names, text
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
UNANSWERED = "unanswered"  # the split of questions that are only there to be answered
WORDS = re.compile(r"(?<![a-z])(train|training|valid|val|validation|test|testing)(?![a-z])")
UNSPECIFIED = "unspecified"  # type of an answer or a question that has none


@dataclass(frozen=True)
class Question:
    text: str
    number: int | str  # question_id
    answers: tuple[str, ...]  # of the people; () where nobody may know them
    answer_type: str
    question_type: str


class VqaSource(Source):
    """The images that somebody asks about, in the order of the files: train, val, test.

    What cannot be used is left out and counted in `notes`. ValueError in one line for files that make no sense.
    """

    labels, classes = None, ()

    def __init__(self, where: str, train: str | None = None, val: str | None = None, test: str | None = None):
        self.where = where
        files = [
            (file, split)
            for split, given in (("train", train), ("val", val), ("test", test))
            if (file := json_file(where, patterns(split), given, split))
        ]
        if not files or files[0][1] != "train":
            raise ValueError(no_questions(where))
        pictures = Pictures(list(map(text, scan(where, cache=True).names.all_raw())))
        left: Counter[str] = Counter()
        splits: dict[str, str] = {}  # of an image
        rows: dict[str, list[tuple[Any, ...]]] = {}  # of an image: text, number, answers, types
        for path, split in files:
            answers = answers_beside(path)
            if answers is None and split != "test":
                raise ValueError(f"{path}: no file of annotations beside it: looked for {' and '.join(beside(path))}")
            self._read(path, split if answers else UNANSWERED, answers, pictures, left, splits, rows)
        if not rows:
            raise ValueError(f"{files[0][0]}: none of its questions can be used: {sentence(left) or 'it has none'}")
        self.names = self._paths = Names.of([os.fsencode(path) for path in rows])
        found = list(splits.values())
        self.splits = np.array(found, object) if set(found) != {"train"} else None
        flat = [row for of_image in rows.values() for row in of_image]
        self.first = np.cumsum([0, *map(len, rows.values())])  # [n + 1]: the questions of image i begin there
        self._texts = Names.of([row[0].encode("utf-8", "surrogatepass") for row in flat])  # Names: for forks
        self._rest = Names.of([json.dumps(row[1:]).encode() for row in flat])
        self.notes = tuple(self._notes(flat, left))

    def _read(
        self,
        path: str,
        split: str,
        answers: str | None,
        pictures: "Pictures",
        left: Counter[str],
        splits: dict[str, str],
        rows: dict[str, list[tuple[Any, ...]]],
    ) -> None:
        tree = read_tree(path)
        known = annotations(answers) if answers else {}
        places: dict[Any, str | None] = {}
        taken = set()
        for question in listed(path, tree, "questions"):
            number, image, words = facts(path, question)
            if number in taken:
                raise ValueError(f"{path}: two questions have the id {number!r}")
            taken.add(number)
            if image not in places:
                places[image] = pictures.of(image, split, tree, path)
                if places[image] is None:
                    left["images that questions are about do not exist"] += 1
                elif splits.setdefault(str(places[image]), split) != split:
                    raise ValueError(f"{path}: {places[image]} is asked about in two files: held out is held out")
            file, said = places[image], known.get(number)
            if file is None:
                left["questions about images that do not exist are left out"] += 1
            elif not words:
                left["questions without words are left out"] += 1
            elif answers is None:
                rows.setdefault(file, []).append((words, number, (), "", ""))
            elif said is None:
                left["questions have no annotation and are left out"] += 1
            elif "image_id" in said and said["image_id"] != image:
                left["annotations name another image than their question: both are left out"] += 1
            elif not (people := people_of(said)):
                left["questions that nobody answered are left out"] += 1
            else:
                kinds = (str(said.get(kind) or UNSPECIFIED) for kind in ("answer_type", "question_type"))
                rows.setdefault(file, []).append((words, number, people, *kinds))
        if strange := len(known.keys() - taken):
            left["annotations belong to no question and are left out"] += strange
        for file in [file for file in splits if file not in rows]:
            del splits[file]

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def count(self, indices: np.ndarray) -> int:
        """Questions about these images."""
        return int((self.first[indices + 1] - self.first[indices]).sum())

    def numbers(self, indices: np.ndarray) -> list[int]:
        """Of the questions about these images, in their order."""
        return [k for i in indices.tolist() for k in range(int(self.first[i]), int(self.first[i + 1]))]

    def question(self, k: int) -> Question:
        number, answers, answer_type, question_type = json.loads(self._rest.raw(k))
        return Question(self.text(k), number, tuple(answers), answer_type, question_type)

    def text(self, k: int) -> str:
        return self._texts.raw(k).decode("utf-8", "surrogatepass")

    def _notes(self, flat: Sequence[tuple[Any, ...]], left: Counter[str]) -> Iterator[str]:
        yield f"{len(flat):,} questions about {len(self):,} images"
        if self.splits is not None and (unanswered := int((self.splits == UNANSWERED).sum())):
            yield f"{unanswered:,} images have questions without annotations: those are answered, and not measured"
        kinds = Counter(kind for _, _, people, kind, _ in flat if people and kind not in TYPES)
        if kinds:
            named = ", ".join(f"{kind!r} ({n:,})" for kind, n in kinds.most_common(5))
            more = f" and {len(kinds) - 5} more" if len(kinds) > 5 else ""
            yield f"answers of types that VQAv2 does not have are kept, with a row of their own: {named}{more}"
        for what, n in left.items():
            yield f"{n:,} {what}"


# ---------------------------------------------------------------------------------------------------------- the files
def patterns(split: str) -> tuple[str, ...]:
    return (TEST if split == "test" else ()) + tuple(pattern.format(split=split) for pattern in FILES)


def no_questions(where: str) -> str:
    return f"{where}: no questions: looked for {', '.join(patterns('train'))}; --images.train-json names another file"


def beside(path: str) -> list[str]:
    """Where the annotations of a file of questions may lie."""
    folder, name = os.path.split(path)
    names = dict.fromkeys([name.replace("OpenEnded_", ""), name])
    changed = [new for old in names if (new := old.replace("questions", "annotations")) != name]
    folders = dict.fromkeys([folder, os.path.join(os.path.dirname(folder), "annotations")])
    found = [os.path.join(f, n) for f in folders for n in changed]
    if os.path.basename(folder) == "questions":  # questions/train.json, annotations/train.json
        found.append(os.path.join(os.path.dirname(folder), "annotations", name))
    return found


def answers_beside(path: str) -> str | None:
    return next((file for file in beside(path) if os.path.isfile(file)), None)


def listed(path: str, tree: Any, part: str) -> list[Any]:
    found = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{path}: it has no list {part!r}, as VQAv2's files have")
    return found


def facts(path: str, question: Any) -> tuple[int | str, int | str, str]:
    """(question_id, image_id, words). ValueError where one is missing; "" where there are no words."""
    number, image = (question.get(name) if isinstance(question, dict) else None for name in ("question_id", "image_id"))
    for value in (number, image):
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise ValueError(f"{path}: a question without question_id or image_id: {str(question)[:80]}")
    words = question.get("question")
    assert number is not None
    assert image is not None
    return number, image, " ".join(words.split()) if isinstance(words, str) else ""


def annotations(path: str) -> dict[Any, dict[str, Any]]:
    """By question_id. ValueError: one is missing, or is there twice."""
    found: dict[Any, dict[str, Any]] = {}
    for annotation in listed(path, read_tree(path), "annotations"):
        number = annotation.get("question_id") if isinstance(annotation, dict) else None
        if not isinstance(number, int | str):
            raise ValueError(f"{path}: an annotation without question_id: {str(annotation)[:80]}")
        if number in found:
            raise ValueError(f"{path}: two annotations have the question_id {number!r}")
        found[number] = annotation
    return found


def people_of(annotation: dict[str, Any]) -> tuple[str, ...]:
    """What people answered; where nobody is listed, the one answer that is chosen of them. Numbers become words."""
    each = annotation.get("answers")
    each = each if isinstance(each, list) else []
    said = [one.get("answer") if isinstance(one, dict) else one for one in each] or [
        annotation.get("multiple_choice_answer")
    ]
    return tuple(str(one) for one in said if isinstance(one, str | int | float) and str(one).strip())


def sentence(left: Counter[str]) -> str:
    return "; ".join(f"{n:,} {what}" for what, n in left.items())


# --------------------------------------------------------------------------------------------------------- the images
class Pictures:
    """Files by what json calls them: a number at the end of their name, or their name."""

    def __init__(self, paths: Sequence[str]):
        self.paths = frozenset(paths)
        self.named: dict[int | str, list[str]] = {}
        for path in paths:
            name = os.path.basename(path)
            stem = os.path.splitext(name)[0]
            digits = re.search(r"\d+$", stem)
            keys: list[int | str] = [name, stem] if name != stem else [name]
            for key in keys + ([int(digits[0])] if digits else []):
                self.named.setdefault(key, []).append(path)

    def of(self, image: int | str, split: str, tree: dict[str, Any], asked: str) -> str | None:
        """The file of an image: in folders, or of a name, that say VQAv2's `data_subtype` or this split.

        None: there is none, or all are of other splits; COCO's numbers mean the same image wherever it lies.
        ValueError: several are as good.
        """
        if image in self.paths:
            return str(image)
        key = int(image) if isinstance(image, str) and image.isdecimal() and image not in self.named else image
        paths, subset = self.named.get(key, []), str(tree.get("data_subtype") or "")
        wanted = "test" if split == UNANSWERED else split
        for fitting in (
            [path for path in paths if subset and subset in path],
            [path for path in paths if wanted in splits_of(path)],
            [path for path in paths if not splits_of(path)],
            paths if tree.get("data_type") == "mscoco" else [],
        ):
            if len(fitting) > 1:
                raise ValueError(f"{asked}: image {image!r} may be {fitting[0]} or {fitting[1]}")
            if fitting:
                return fitting[0]
        return None


def splits_of(path: str) -> set[str]:
    """What a path says of its split: train2014/COCO_train2014_000000000009.jpg -> {"train"}."""
    return {SPLITS[word] for word in WORDS.findall(path.lower())}

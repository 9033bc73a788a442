"""VQAv2's json: what is read, what is left out and counted, what ends with one line; questions as batches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.sources.open import open_source
from maskery.data.sources.source import split_indices
from maskery.data.sources.vqa_v2 import UNANSWERED, VqaSource, splits_of
from maskery.demo.scenes import scene
from maskery.demo.vqa import write_files

CPU = torch.device("cpu")


def opened(root: Path, **how: Any) -> VqaSource:
    source = open_source(root, ImagesConfig(questions=True, **how))
    assert isinstance(source, VqaSource)
    return source


def change(root: Path, edit: Callable[[dict[str, Any]], Any], file: str = "questions_train.json") -> None:
    tree = json.loads((root / file).read_text())
    edit(tree)
    (root / file).write_text(json.dumps(tree))


def annotate(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: change(root, lambda tree: edit(tree["annotations"]), "annotations_train.json")


def ask(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: change(root, lambda tree: edit(tree["questions"]))


def test_scenes_come_back_as_they_were(vqa: Path) -> None:
    source = opened(vqa)
    assert [len(part) for part in split_indices(source, 0.05)] == [8, 2]
    assert source.names[9] == "val/scene_val_000000000009.png"
    for i in range(10):
        asked = [source.question(k) for k in source.numbers(np.array([i]))]
        assert [(q.text, q.answers[0]) for q in asked] == list(scene(0, i, 32).questions)
        assert all(len(q.answers) == 10 for q in asked)
    first = source.question(0)
    assert (first.number, first.answer_type, first.question_type) == (0, "number", "how many")
    assert source.count(np.arange(10)) == source.first[-1]


def coco_layout(root: Path) -> Path:
    """VQAv2's own names; the image of the held-out question has the number of a training image of another split."""
    for split, number in (("train", 9), ("val", 42)):
        name = f"{split}2014/COCO_{split}2014_{number:012d}.jpg"
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (20, 16), (number, 0, 0)).save(root / name)
        write_files(root, split, [(number, "what is it?", ["a dog"] * 10)])
        for part, prefix in (("questions", "v2_OpenEnded_mscoco"), ("annotations", "v2_mscoco")):
            tree = json.loads((root / f"{part}_{split}.json").read_text())
            tree |= {"data_type": "mscoco", "data_subtype": f"{split}2014"}
            (root / f"{part}_{split}.json").unlink()
            (root / f"{prefix}_{split}2014_{part}.json").write_text(json.dumps(tree))
    return root


def test_vqav2s_own_layout(tmp_path: Path) -> None:
    root = coco_layout(tmp_path)
    source = opened(root)
    assert list(source.names) == ["train2014/COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000042.jpg"]
    shutil.move(root / "val2014" / "COCO_val2014_000000000042.jpg", root / "train2014" / "000000000042.jpg")
    assert opened(root).names[1] == "train2014/000000000042.jpg"  # COCO's numbers are the same in its edition of 2017
    (root / "questions").mkdir()
    for file in root.glob("*.json"):
        shutil.move(file, root / "questions" / file.name)
    with pytest.raises(ValueError, match=r"questions/\*train\*\.json"):
        opened(root / "train2014")
    train, val = (f"questions/v2_OpenEnded_mscoco_{split}2014_questions.json" for split in ("train", "val"))
    assert len(opened(root, train_json=train, val_json=val)) == 2


def test_other_layouts(vqa: Path) -> None:
    for split in ("train", "val"):
        for part in ("questions", "annotations"):
            (vqa / part).mkdir(exist_ok=True)
            shutil.move(vqa / f"{part}_{split}.json", vqa / part / f"{split}.json")
    assert len(opened(vqa)) == 10
    (vqa / "questions" / "val.json").unlink()
    assert opened(vqa).splits is None
    for name in list((vqa / "train").iterdir()):
        shutil.move(name, vqa / name.name.replace("_train_", "-"))
    assert len(opened(vqa)) == 8


def test_images_by_their_names(vqa: Path) -> None:
    write_files(
        vqa, "train", [("train/scene_train_000000000003.png", "a?", ["x"]), ("scene_train_000000000004", "b?", ["y"])]
    )
    write_files(vqa, "val", [("000000000009", "c?", ["x"])])
    source = opened(vqa)
    assert [name[-5] for name in source.names] == ["3", "4", "9"]


def test_numbers_of_several_images(vqa: Path) -> None:
    shutil.copy(vqa / "train" / "scene_train_000000000003.png", vqa / "train" / "other_000000000003.png")
    with pytest.raises(ValueError, match=r"image 3 may be train/other_0+3\.png or train/scene_train_0+3\.png"):
        opened(vqa)


def test_an_image_of_the_other_split_is_no_image_of_this_one(vqa: Path) -> None:
    write_files(vqa, "val", [(0, "is it there?", ["no"]), (9, "is it there?", ["yes"])])
    source = opened(vqa)
    assert "1 questions about images that do not exist are left out" in source.notes
    assert [name for name in source.names if "val" in name] == ["val/scene_val_000000000009.png"]


def test_what_cannot_be_used_is_left_out_and_counted(vqa: Path) -> None:
    (vqa / "train" / "scene_train_000000000000.png").unlink()
    lost = len(scene(0, 0, 32).questions)
    before = opened(vqa).first[-1]
    change(vqa, lambda t: t["questions"].append({"question_id": 900, "image_id": 1, "question": "really?"}))
    change(vqa, lambda t: t["questions"].append({"question_id": 901, "image_id": 1, "question": "  "}))
    change(vqa, lambda t: t["questions"].append({"question_id": 902, "image_id": 1, "question": "who?"}))
    change(vqa, lambda t: t["questions"].append({"question_id": 903, "image_id": 1, "question": "why?"}))
    more = [
        {"question_id": 901, "image_id": 1, "answers": [{"answer": "yes"}]},
        {"question_id": 902, "image_id": 2, "answers": [{"answer": "yes"}]},
        {"question_id": 903, "image_id": 1, "answers": [{"answer": " "}]},
        {"question_id": 999, "image_id": 1, "answers": [{"answer": "yes"}]},
    ]
    annotate(lambda each: each.extend(more))(vqa)
    annotate(lambda each: each[-5].update(answer_type="colour"))(vqa)
    source = opened(vqa)
    said = "\n".join(source.notes)
    assert source.first[-1] == before
    assert "1 images that questions are about do not exist" in said
    assert f"{lost} questions about images that do not exist are left out" in said
    assert "1 questions have no annotation and are left out" in said
    assert "1 questions without words are left out" in said
    assert "1 annotations name another image than their question" in said
    assert "1 questions that nobody answered are left out" in said
    assert "1 annotations belong to no question" in said
    assert "kept, with a row of their own: 'colour' (1)" in said


def test_other_forms_of_answers(vqa: Path) -> None:
    def spoil(each: list[dict[str, Any]]) -> None:
        each[0].update(answers=["two", 2])
        each[1].pop("answers")
        each[2].pop("answer_type")

    annotate(spoil)(vqa)
    source = opened(vqa)
    assert source.question(0).answers == ("two", "2")
    assert len(source.question(1).answers) == 1
    assert source.question(2).answer_type == "unspecified"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (ask(lambda each: each.append(each[0])), r"questions_train\.json: two questions have the id 0"),
        (
            annotate(lambda each: each.append(each[0])),
            r"annotations_train\.json: two annotations have the question_id 0",
        ),
        (ask(lambda each: each[0].pop("image_id")), "a question without question_id or image_id"),
        (ask(lambda each: each.append("who?")), "a question without question_id or image_id: who"),
        (annotate(lambda each: each[0].pop("question_id")), "an annotation without question_id"),
        (lambda root: change(root, lambda t: t.pop("questions")), "it has no list 'questions'"),
        (lambda root: change(root, lambda t: t.pop("annotations"), "annotations_val.json"), "no list 'annotations'"),
        (lambda root: (root / "annotations_val.json").unlink(), r"no file of annotations beside it: looked for .*anno"),
        (lambda root: (root / "questions_train.json").write_text('{"questions": ['), "damaged json in line 1"),
        (lambda root: (root / "questions_train.json").unlink(), "no questions: looked for .*; --images.train-json"),
        (lambda root: shutil.copy(root / "questions_val.json", root / "questions_val2.json"), "which one.*val-json"),
        (lambda root: shutil.rmtree(root / "train"), "none of its images|are held out|none is left"),
        (lambda root: [shutil.rmtree(root / s) for s in ("train", "val")], "none of its questions can be used"),
    ],
)
def test_files_that_make_no_sense(vqa: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(vqa)
    with pytest.raises(ValueError, match=said) as e:
        split_indices(opened(vqa), 0.05)
    assert "\n" not in str(e.value)


def test_an_image_in_both_files(vqa: Path) -> None:
    change(vqa, lambda t: t["questions"][0].update(image_id="train/scene_train_000000000001.png"), "questions_val.json")
    with pytest.raises(ValueError, match=r"train/scene_train_0+1\.png is asked about in two files"):
        opened(vqa)


def test_questions_without_answers_are_there_to_be_answered(vqa: Path) -> None:
    (vqa / "test").mkdir()
    shutil.copy(vqa / "val" / "scene_val_000000000009.png", vqa / "test" / "scene_test_000000000009.png")
    write_files(vqa, "test", [(9, "is it there?", ["no"])])
    assert opened(vqa).splits.tolist()[-1] == "test"  # type: ignore[union-attr]
    (vqa / "annotations_test.json").unlink()
    source = opened(vqa)
    assert source.splits.tolist()[-1] == UNANSWERED  # type: ignore[union-attr]
    assert [len(part) for part in split_indices(source, 0.05)] == [8, 2]
    assert source.question(int(source.first[-2])).answers == ()


def test_what_paths_say() -> None:
    assert splits_of("train2014/COCO_train2014_000000000009.jpg") == {"train"}
    assert splits_of("a/valid/x.png") == {"val"}
    assert splits_of("trains/contest-1.png") == set()


def test_real_questions(shared_data: Path) -> None:
    source = opened(shared_data / "vqa_shapes")
    assert source.notes == ("18,330 questions about 1,900 images",)
    assert [source.count(part) for part in split_indices(source, 0.0)] == [14_432, 3_898]

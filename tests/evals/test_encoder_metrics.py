import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.config import ImagesConfig
from maskery.data.dataset import ImageData, open_data
from maskery.evals.encoder_metrics import ProbeImages, encoder_metrics, seconds_per_step, training_curve
from maskery.evals.eval_pass import InferenceOptions
from maskery.evals.features import features
from maskery.evals.knn import knn_accuracies
from maskery.evals.linear_probe import probe_accuracy
from maskery.nn.vit import ViT, ViTConfig
from maskery.terminal import Quiet


def log(folder: Path, *lines: dict) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(step: int, rate: float, steps: int = 30) -> dict:
    return {"step": step, "t": step / steps, "loss": 1.0, "images_per_second": rate}


def test_training_seconds_exclude_evaluations(tmp_path: Path) -> None:
    """Batch 8: 10 steps at 40 images/s are 2 s, the next 10 at 20 are 4 s; a look in the middle of those is at 4 s."""
    looks = [{"step": s, "epoch": s / 5, "knn_mean_patch": 0.1} for s in (0, 15, 20)]
    run = log(tmp_path, looks[0], line(10, 40), looks[1], line(20, 20), looks[2])
    curve = training_curve(run, 8)
    assert curve["steps"] == 20
    assert curve["training_seconds"] == pytest.approx(6.0)
    assert curve["images_per_second"] == pytest.approx(160 / 6)
    assert [look["seconds"] for look in curve["looks"]] == pytest.approx([0.0, 4.0, 6.0])
    assert curve["looks"][1]["knn_mean_patch"] == 0.1


def test_a_slow_run_does_not_divide_by_zero(tmp_path: Path) -> None:
    assert training_curve(log(tmp_path, line(1, 0.0)), 1)["training_seconds"] == pytest.approx(20.0)


def test_a_run_that_stopped_before_its_first_line(tmp_path: Path) -> None:
    nothing = {"steps": 0, "training_seconds": 0.0, "images_per_second": 0.0, "looks": []}
    assert training_curve(log(tmp_path), 8) == nothing


def test_the_first_third_of_a_short_run_does_not_count(tmp_path: Path) -> None:
    """Steps 11 .. 20 take 8 * 10 / 80 = 1 s, 21 .. 30 take 2 s: 0.15 s a step; the first ten were compiling."""
    assert seconds_per_step(log(tmp_path, line(10, 1), line(20, 80), line(30, 40)), 8) == pytest.approx(0.15)


@pytest.fixture
def data(scene_folder: Path) -> ImageData:
    return open_data(str(scene_folder), ImagesConfig(memory=0.0), (32, 32), Quiet())


def test_the_same_images_are_asked_for_and_only_those_with_labels(data: ImageData, scene_folder: Path) -> None:
    images = ProbeImages.of(data)
    assert isinstance(images, ProbeImages)
    assert images.bank.tolist() == data.train.tolist()
    assert images.queries.tolist() == data.held_out.tolist()
    assert data.labels is not None
    data.labels[data.train[3]] = -1
    fewer = ProbeImages.of(data)
    assert isinstance(fewer, ProbeImages)
    assert set(images.bank) - set(fewer.bank) == {data.train[3]}
    data.labels[data.held_out] = -1
    assert ProbeImages.of(data) == "no image with a label is held out (--images.holdout)"
    without = open_data(str(scene_folder), ImagesConfig(memory=0.0, labels=False), (32, 32), Quiet())
    assert ProbeImages.of(without) == "the images have no labels"


def test_four_accuracies(data: ImageData) -> None:
    """Each is of its own token, learned from the bank and images of the queries."""
    torch.manual_seed(0)
    encoder = ViT(ViTConfig(48, 2, 3, 8, (32, 32)))
    images = ProbeImages(data.train, data.train[::4])
    numbers = encoder_metrics(encoder, data, images, InferenceOptions())
    bank, queries = features(encoder, data.images, images.bank), features(encoder, data.images, images.queries)
    assert data.labels is not None
    y, truth = torch.from_numpy(data.labels[images.bank]), torch.from_numpy(data.labels[images.queries])
    assert numbers == knn_accuracies(bank, queries, data.labels, len(data.classes)) | {
        "linear_mean_patch": probe_accuracy(bank.mean_patch, y, queries.mean_patch, truth, len(data.classes)),
        "linear_class_token": probe_accuracy(bank.class_token, y, queries.class_token, truth, len(data.classes)),
    }
    assert numbers["linear_mean_patch"] != numbers["linear_class_token"], "could not be told apart here"
    assert all(np.isclose(v * 25, round(v * 25)) for v in numbers.values())

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskery.config import ImagesConfig, WatchConfig
from maskery.data.dataset import ImageData, open_data
from maskery.evals.eval_pass import InferenceOptions
from maskery.evals.periodic import PeriodicEvaluation
from maskery.methods.mae import MAE, MAEConfig
from maskery.nn.baselines import MEAN, NEIGHBOURS, PLACE
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig
from maskery.terminal import Quiet

WATCH = WatchConfig(pictures=3, held_out=16, knn_bank=40, knn_queries=20)


def evaluate(objective: MAE, data: ImageData, out: Path, step: int, t: float) -> dict[str, float]:
    return PeriodicEvaluation(objective, data, WATCH, out, InferenceOptions()).run(step, t)


@pytest.fixture
def data(scene_folder: Path) -> ImageData:
    return open_data(str(scene_folder), ImagesConfig(), (32, 32), Quiet())


@pytest.fixture
def objective() -> MAE:
    torch.manual_seed(0)
    return MAE(MAEConfig(decoder=DecoderSize(32, 1, 4)), ViTConfig(48, 2, 3, 8, (32, 32))).train()


def test_the_same_network_has_the_same_numbers(objective: MAE, data: ImageData, tmp_path: Path) -> None:
    first = evaluate(objective, data, tmp_path, 0, 0.0)
    torch.manual_seed(99)  # whatever was drawn in between
    torch.rand(7)
    assert evaluate(objective, data, tmp_path, 5, 0.5) == first
    wanted = {"held_out_loss", "knn_mean_patch", "knn_class_token", "effective_rank", "feature_spread"}
    assert first.keys() == wanted
    assert objective.training
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [p.name for p in pictures] == ["step-00000000.png", "step-00000005.png"]


def test_the_first_evaluation_writes_trivial_baselines(objective: MAE, data: ImageData, tmp_path: Path) -> None:
    evaluate(objective, data, tmp_path, 0, 0.0)
    known = json.loads((tmp_path / "baselines.json").read_text())
    assert known["images"] == 16
    assert known["held_out"] == len(data.held_out)
    assert known["guesses"]["loss"].keys() == {MEAN, PLACE, NEIGHBOURS}
    (tmp_path / "baselines.json").write_text("{}")
    evaluate(objective, data, tmp_path, 5, 0.5)
    assert (tmp_path / "baselines.json").read_text() == "{}"  # once, at the start


def test_without_labels_features_are_still_measured(objective: MAE, scene_folder: Path, tmp_path: Path) -> None:
    unlabelled = open_data(str(scene_folder), ImagesConfig(labels=False), (32, 32), Quiet())
    seen = evaluate(objective, unlabelled, tmp_path, 0, 0.0)
    assert seen.keys() == {"held_out_loss", "effective_rank", "feature_spread"}
    assert 1 < seen["effective_rank"] < 16


@pytest.mark.parametrize("change", [{"knn_bank": 0}, {"knn_queries": 0}])
def test_no_images_for_knn_is_no_knn(objective: MAE, data: ImageData, tmp_path: Path, change: dict[str, int]) -> None:
    numbers = PeriodicEvaluation(objective, data, replace(WATCH, **change), tmp_path, InferenceOptions()).run(0, 0.0)
    assert numbers.keys() == {"held_out_loss", "effective_rank", "feature_spread"}


def test_another_network_has_other_numbers(objective: MAE, data: ImageData, tmp_path: Path) -> None:
    first = evaluate(objective, data, tmp_path, 0, 0.0)
    with torch.no_grad():
        objective.decoder.pred.weight.mul_(3)
    assert evaluate(objective, data, tmp_path, 1, 0.0)["held_out_loss"] != first["held_out_loss"]

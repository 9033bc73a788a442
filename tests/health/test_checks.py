"""Healthy runs of every method are quiet, planted faults are named: real runs of a few seconds each."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.demo import scenes
from maskery.health.checks import RunRecord, Verdict, verdicts
from maskery.methods import METHODS, mae
from maskery.nn.targets import pixels
from maskery.nn.teacher import Ema
from maskery.runs.directory import open_run
from maskery.runs.metrics import read_metrics

BASE_LR = 4e-2  # lr 2.5e-3 at batch 16: what `pretrain` suggests for vit-micro
TINY: dict[str, Any] = {
    "model": "vit-micro",
    "patch_size": 8,
    "image_size": 32,
    "batch_size": 16,
    "steps": 100,
    "settings": {"mask_ratio": 0.5, "decoder": {"dim": 32, "depth": 1, "heads": 4}},
    "watch": {"log_every": 4, "looks": 4, "pictures": 0, "held_out": 64, "knn_bank": 100, "knn_queries": 60},
    "optim": {"base_lr": BASE_LR},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_folder(tmp_path_factory.mktemp("health") / "images", 400, size=32)


@pytest.fixture(scope="module")
def healthy_mae(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("health") / "mae"
    maskery.pretrain(data=images, out=out, method="mae", **TINY)
    return out


def judged(run: Path) -> dict[str, Verdict]:
    known = json.loads((run / "baselines.json").read_text())
    found = verdicts(RunRecord(read_metrics(run / "metrics.jsonl"), asdict(open_run(run).run), known))
    assert len({v.name for v in found}) == len(found)
    return {v.name: v for v in found}


def trained(data: Path, out: Path, **leaves: Any) -> dict[str, Verdict]:
    tree = TINY | leaves
    for part in ("settings", "optim", "watch"):
        tree[part] = TINY.get(part, {}) | leaves.get(part, {})
    if leaves.get("method") == "mixed-ae":  # its group says how much is hidden
        tree["settings"] = {n: v for n, v in tree["settings"].items() if n != "mask_ratio"}
    maskery.pretrain(data=data, out=out, **tree)
    return judged(out)


def named(found: dict[str, Verdict]) -> set[str]:
    return {v.name for v in found.values() if v.level == "act"}


def folder_of(images: Iterable[Image.Image], folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_healthy_run_is_quiet(method: str, images: Path, healthy_mae: Path, tmp_path: Path) -> None:
    settings = {"cmt-mae": {"teacher": str(healthy_mae)}, "mixed-ae": {"group": 2}}.get(method, {})
    if method in ("rc-mae", "msa", "cmt-mae"):
        settings = settings | {"momentum": 0.9}  # 0.996 averages over 250 steps, more than this run has
    run = healthy_mae if method == "mae" else tmp_path / "run"
    found = judged(run) if method == "mae" else trained(images, run, method=method, settings=settings)
    found.pop("speed", None)  # of the machine, which others may be using
    assert {v.name: v.sentence for v in found.values() if v.level != "good"} == {}
    assert found.keys() >= {"expected loss", "trend", "neighbours", "features", "images", "gradients", "learning rate"}
    assert found.keys() >= {"data wait", "time left"}
    said = [line for line in (run / "train.log").read_text().splitlines() if "health, " in line]
    assert [line for line in said if "health, speed: " not in line] == []


def test_a_learning_rate_30_times_too_high(images: Path, tmp_path: Path) -> None:
    found = trained(images, tmp_path / "run", optim={"base_lr": 30 * BASE_LR}, steps=60)
    assert "learning rate" in named(found)
    assert "--optim.base-lr 0.04" in found["learning rate"].advice
    said = (tmp_path / "run" / "train.log").read_text()
    assert said.count("health, learning rate: act: ") == 1  # when it becomes so, and not at every look


def test_a_frozen_encoder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = mae.MAE.__init__

    def frozen(self: mae.MAE, config: mae.MAEConfig, vit: Any) -> None:
        build(self, config, vit)
        self.encoder.requires_grad_(False)

    monkeypatch.setattr(mae.MAE, "__init__", frozen)
    assert "encoder" in named(trained(images, tmp_path / "run", steps=60))


def test_images_that_show_nothing(tmp_path: Path) -> None:
    plain = folder_of((Image.new("RGB", (32, 32), (2 * i, 100, 100)) for i in range(100)), tmp_path / "images")
    found = trained(plain, tmp_path / "run", steps=40)
    assert named(found) == {"images"}
    assert "show nothing" in found["images"].sentence


def test_images_that_are_all_one(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    found = trained(folder_of([noise] * 100, tmp_path / "images"), tmp_path / "run", steps=40)
    assert "images" in named(found)
    assert "same picture" in found["images"].sentence


def test_targets_of_other_images(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mae, "pixels", lambda *args: pixels(*args).roll(1, 0))
    found = trained(images, tmp_path / "run")
    assert named(found) == {"expected loss"}
    assert "targets" in found["expected loss"].advice


@pytest.mark.parametrize(("method", "name"), [("msa", "teacher"), ("rc-mae", "features")])
def test_a_collapsed_teacher(
    method: str, name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapse(self: Ema[Any], *args: object) -> None:
        for parameter in self.net.parameters():
            parameter.mul_(0.5)

    monkeypatch.setattr(Ema, "update", torch.no_grad()(collapse))
    assert name in named(trained(images, tmp_path / "run", method=method, settings={"momentum": 0.9}, steps=60))


def test_a_teacher_that_stays_where_it_began(images: Path, tmp_path: Path) -> None:
    found = trained(images, tmp_path / "run", method="rc-mae", steps=60)
    assert found["teacher"].level == "watch"
    assert "--settings.momentum 0.833" in found["teacher"].advice


def test_a_starved_loader(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    large = (Image.fromarray(x).resize((900, 900), Image.Resampling.NEAREST) for x in small)  # slow to read
    read_again, watch = {"memory": 0, "workers": 0}, {"looks": 2, "log_every": 2}
    found = trained(folder_of(large, tmp_path / "images"), tmp_path / "run", steps=8, watch=watch, images=read_again)
    assert named(found) == {"data wait"}
    assert "maskery profile" in found["data wait"].advice


def told(folder: Path, lines: list[dict[str, float]]) -> dict[str, Verdict]:
    """The verdicts on a metrics.jsonl of these lines."""
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps({"epoch": 1.0, "t": line["step"] / 1000} | line) + "\n" for line in lines))
    return {v.name: v for v in verdicts(RunRecord(read_metrics(path)))}


@pytest.mark.parametrize(("busy", "waits", "level"), [(0.3, 0.1, "watch"), (0.3, 0.4, "good"), (0.8, 0.1, "good")])
def test_a_gpu_that_something_else_holds_up(busy: float, waits: float, level: str, tmp_path: Path) -> None:
    each = {"loss": 1.0, "lr": 1e-3, "images_per_second": 100.0, "data_wait": waits, "gpu_use": busy}
    assert told(tmp_path, [{"step": 10 * (i + 1)} | each for i in range(10)])["device"].level == level


@pytest.mark.parametrize(("spread", "rank", "level"), [(0.004, 9, "act"), (0.006, 1.4, "act"), (0.006, 9, "good")])
def test_features_that_are_all_alike(spread: float, rank: float, level: str, tmp_path: Path) -> None:
    looks = [{"step": 250 * i, "feature_spread": 0.3, "effective_rank": 10.0} for i in range(3)]
    looks.append({"step": 750, "feature_spread": spread, "effective_rank": rank})
    assert told(tmp_path, looks)["features"].level == level

"""Where a step's time goes: the parts are the whole, and what starves is named."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.commands.profile import PARTS, Clock, Enough, findings, matrix_product, table
from maskery.options import UsageError
from tests.test_train import TINY

FEW = {"timed": 2, "images": {"workers": 0}}


def test_the_parts_are_the_whole() -> None:
    clock = Clock(torch.device("cpu"), unlogged=2, timed=3)
    clock("forward")  # looking for the micro-batch that fits

    def step() -> None:
        for i, part in enumerate(PARTS):
            time.sleep(0.001 * i)
            for _ in range(2 if part in ("forward", "backward") else 1):  # micro-batches
                clock(part)

    for _ in range(2 + 3 + 2):
        step()
    with pytest.raises(Enough):
        step()
    assert sum(clock.parts.values()) == pytest.approx(clock.seconds[2], rel=0.05)
    assert all(clock.parts[part] >= 0.001 * i for i, part in enumerate(PARTS))
    assert clock.seconds[1] >= 0.021


@pytest.fixture(scope="module")
def facts(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    where = tmp_path_factory.mktemp("profile") / "new" / "facts.json"
    options = ["--data", str(scene_folder), "--timed", "3", "--json", str(where), "--images.workers", "0"]
    assert main(["profile", *options, "--batch-size", "8", "--micro-batch", "4"]) == 0
    return json.loads(where.read_text())


def test_what_is_in_the_file(facts: dict[str, Any], scene_folder: Path) -> None:
    assert list(facts["parts"]) == list(PARTS)
    assert sum(facts["shares"].values()) == pytest.approx(1)
    assert all(facts["parts"][part] > 0 for part in PARTS)
    assert facts["images_per_second"] == pytest.approx(8 / facts["step_seconds"])
    flop = facts["gflop_per_image"] * 1e9
    expected = facts["images_per_second"] * flop / facts["matrix_product_tflops"] / 1e12
    assert facts["utilisation"] == pytest.approx(expected)
    assert (facts["batch_size"], facts["micro_batch"], facts["workers"]) == (8, 4, 0)
    assert facts["run"]["data"] == str(scene_folder)
    assert facts["environment"]["packages"]["torch"]
    assert facts["memory_total_gb"] > facts["memory_gb"] > 0
    assert facts["images_per_second_per_worker"] > 0
    assert facts["findings"]


def test_a_run_is_profiled_as_it_was_set_up(scene_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=2, **TINY)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = maskery.profile(run=out, **FEW)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert found["batch_size"] == TINY["batch_size"]
    said = capsys.readouterr().out
    assert "part of a step" in said
    assert all(f"\n{part} " in said for part in PARTS)
    assert f"- {found['findings'][0]}" in said


def test_a_loader_that_starves_the_step_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    for i in range(16):
        Image.fromarray(noise).save(tmp_path / f"{i}.png", compress_level=1)
    slow = {"model": "vit-micro", "image_size": 32, "patch_size": 16, "batch_size": 4}
    found = maskery.profile(data=tmp_path, timed=2, images={"workers": 0, "memory": 0.0}, **slow)
    assert max(found["shares"], key=found["shares"].get) == "data wait"
    assert "waiting for images" in found["findings"][0]
    assert "--images.workers" in found["findings"][0]
    assert "maskery pack" in found["findings"][0]


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({}, "give a run, or --data"),
        ({"data": "images", "out": "run"}, "--out: a profile keeps no run"),
        ({"data": "images", "overwrite": True}, "--overwrite: a profile keeps no run"),
        ({"data": "images", "timed": 0}, "--timed is 0"),
        ({"data": "images", "wrong": 1}, "--wrong"),
        ({"run": "nowhere"}, "there is no such run"),
    ],
)
def test_wrong_options(leaves: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        maskery.profile(**leaves)
    assert isinstance(e.value, UsageError) == ("run" not in leaves)


def test_not_under_torchrun(scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="in one process"):
        maskery.profile(data=scene_folder)


def test_a_matrix_product_takes_its_time() -> None:
    assert 1e6 < matrix_product(torch.device("cpu"), torch.float32, 64) < 1e14


def step(wait: float = 0.0, **others: Any) -> dict[str, Any]:
    """A step on a GPU that leaves nothing to be wished for, but for what is given."""
    shares = dict.fromkeys(PARTS, 0.01) | {"forward": 0.3, "data wait": wait}
    shares |= others.pop("shares", {})
    shares["backward"] = 1 - sum(shares.values())
    usual = {
        "step_seconds": 0.1,
        "images_per_second": 1000.0,
        "parts": {name: 0.1 * share for name, share in shares.items()},
        "shares": shares,
        "gflop_per_image": 57.2,
        "matrix_product_tflops": 750.0,
        "utilisation": 0.5,
        "memory_gb": 60.0,
        "memory_total_gb": 80.0,
        "workers": 8,
        "images_per_second_per_worker": 500.0,
        "kept_in_memory": False,
        "packed": False,
        "batch_size": 4096,
        "micro_batch": 256,
        "precision": "bf16",
        "compile": "on",
        "bf16": True,
        "cores": 16,
    }
    return usual | others


def test_nothing_to_change() -> None:
    (sentence,) = findings(step(), "cuda")
    assert sentence.startswith("Nothing to change: 95% of a step is forward and backward, at 50% of")


@pytest.mark.parametrize(
    ("changed", "words", "not_there"),
    [
        ({"workers": 0}, ["none runs during a step", "--images.workers 4", "maskery pack"], []),
        ({"workers": 2}, ["2 of them are not enough for the 2,000", "--images.workers 4", "maskery pack"], []),
        ({"workers": 2, "packed": True}, ["--images.workers 4"], ["maskery pack"]),
        ({"workers": 2, "cores": 2, "packed": True}, ["more cores would help"], ["--images.workers"]),
        ({"workers": 2, "cores": 2}, ["maskery pack"], ["--images.workers"]),
        ({"workers": 8}, ["8 would be enough if they had cores of their own"], ["--images.workers"]),
        ({"workers": 0, "kept_in_memory": True}, ["--images.workers 4"], ["maskery pack"]),
    ],
)
def test_waiting_for_images(changed: dict[str, Any], words: list[str], not_there: list[str]) -> None:
    sentence = findings(step(0.5, **changed), "cuda")[0]
    assert sentence.startswith("50% of a step is waiting for images: one loader process makes 500 a second")
    assert all(word in sentence for word in words), sentence
    assert not any(word in sentence for word in not_there), sentence


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"precision": "float32"}, "--precision bf16"),
        ({"compile": "off"}, "--compile on"),
        ({"memory_gb": 10.0}, "a larger --micro-batch than 256"),
        ({"shares": {"draw": 0.3}}, "30% of a step is what the method draws beforehand"),
        ({"shares": {"optimiser": 0.2}}, "21% of a step is the optimiser's: a larger --batch-size"),
        ({"shares": {"crop": 0.2}}, "20% of a step is cutting crops"),
    ],
)
def test_one_thing_to_change(changed: dict[str, Any], words: str) -> None:
    (sentence,) = findings(step(**changed), "cuda")
    assert words in sentence


def test_the_dearest_comes_first() -> None:
    found = findings(step(0.25, precision="float32", shares={"optimiser": 0.3}), "cuda")
    words = ("float32", "optimiser", "waiting")
    assert [next(w for w in words if w in sentence) for sentence in found] == list(words)


def test_a_cpu_is_not_told_to_be_a_gpu() -> None:
    assert findings(step(precision="float32", compile="off", memory_gb=1.0), "cpu")[0].startswith("Nothing to change")


def test_the_table() -> None:
    text = table(step(0.25) | {"findings": ["One.", "Two."]})
    assert "data wait           25.0  25.0%" in text
    assert "1,000.0 images/s" in text
    assert text.endswith("- One.\n- Two.")

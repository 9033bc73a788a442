"""The loop: what a run leaves, and that interrupting it changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import maskery
from maskery.cli import main
from maskery.config import ImagesConfig, Run
from maskery.data.dataset import open_data
from maskery.methods import METHODS
from maskery.runs.directory import open_run
from maskery.runs.metrics import read_rows
from maskery.schedule import cosine
from maskery.terminal import Quiet
from maskery.train import resolve

TINY = {
    "model": "vit-micro",
    "patch_size": 8,
    "image_size": 32,
    "batch_size": 16,
    "settings": {"decoder": {"dim": 32, "depth": 1, "heads": 4}},
    "watch": {"log_every": 4, "looks": 2, "pictures": 2, "held_out": 16, "knn_bank": 40, "knn_queries": 20},
    "optim": {"base_lr": 3e-2, "clip_grad": 5.0},
}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "maskery"]
CLOCK = ("images_per_second", "data_wait", "memory")  # what cannot be the same twice


def metrics(run: Path) -> list[dict]:
    facts = read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in f.items() if k not in CLOCK} for f in facts]


def weights(run: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    last = (run / "checkpoints" / "last").read_text().strip()
    return load_file(run / "checkpoints" / last / file)


def assert_same_run(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = weights(a, file), weights(b, file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one), file
    assert (a / "skipped.jsonl").exists() == (b / "skipped.jsonl").exists()


@pytest.fixture(scope="module")
def unbroken(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 steps of 16 images among 100: more than four epochs, a checkpoint after every step."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    maskery.pretrain(data=scene_folder, out=out, steps=26, save={"every": 1, "keep": 0}, **TINY)
    return out


def test_the_run_directory(unbroken: Path, scene_folder: Path) -> None:
    names = {p.name for p in unbroken.iterdir()}
    expected = {
        "config.yaml",
        "baselines.json",
        "metrics.jsonl",
        "train.log",
        "environment.json",
        "checkpoints",
        "samples",
        "tensorboard",
        "evals",
    }
    assert names == expected
    assert [p.name for p in sorted((unbroken / "samples").iterdir())] == [f"step-{s:08d}.png" for s in (0, 13, 26)]
    lines = read_rows(unbroken / "metrics.jsonl")
    logged = [f for f in lines if "loss" in f]
    assert [f["step"] for f in logged] == [4, 8, 12, 16, 20, 24, 26]
    wanted = {"step", "epoch", "t", "loss", "lr", "grad_norm", "images_per_second", "data_wait", "memory"}
    assert all(f.keys() == wanted for f in logged)
    assert logged[0]["epoch"] == pytest.approx(4 * 16 / 100, abs=1e-4)
    looks = [f for f in lines if "loss" not in f]
    assert [f["step"] for f in looks] == [0, 13, 26]
    assert all({"held_out_loss", "knn_mean_patch", "knn_class_token"} <= f.keys() for f in looks)
    assert logged[-1]["loss"] < logged[0]["loss"]
    environment = json.loads((unbroken / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "training on 100 images, 20 held out" in (unbroken / "train.log").read_text()


@pytest.mark.parametrize("step", [1, 4, 6, 13, 25, 26])
def test_going_on_from_any_step_changes_nothing(unbroken: Path, tmp_path: Path, step: int) -> None:
    """As after `kill -9`: the newest checkpoint is of `step`, the metrics may be further and end in half a line."""
    broken = tmp_path / "broken"
    shutil.copytree(unbroken, broken)
    for later in (p for p in (broken / "checkpoints").glob("step-*") if int(p.name[5:]) > step):
        shutil.rmtree(later)
    (broken / "checkpoints" / "last").write_text(f"step-{step:08d}\n")
    with (broken / "metrics.jsonl").open("a") as f:
        f.write('{"step": 27, "lo')
    assert maskery.resume(broken).step == 26
    assert_same_run(unbroken, broken)


def start(args: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not happened() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def long_run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """140 steps with checkpoints on log lines, unbroken, and the options that make it."""
    out = tmp_path_factory.mktemp("long") / "unbroken"
    leaves = TINY | {"data": str(scene_folder), "steps": 140, "save": {"minutes": 0.0}}
    maskery.pretrain(out=out, **leaves)
    from maskery.options import options

    return out, ["pretrain", *options(leaves)]


@pytest.mark.parametrize("moment", ["before the first checkpoint", "while running", "late"])
def test_kill_9_and_resume(long_run: tuple[Path, list[str]], tmp_path: Path, moment: str) -> None:
    unbroken, options = long_run
    out = tmp_path / "killed"
    process = start(["maskery", *options, "--out", str(out)])
    wanted = {"before the first checkpoint": 0, "while running": 40, "late": 100}[moment]

    def far_enough() -> bool:
        lines = metrics(out) if (out / "metrics.jsonl").exists() else []
        return bool(lines) and lines[-1]["step"] >= wanted

    wait_for(process, far_enough)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert main(["resume", str(out)]) == 0
    assert_same_run(unbroken, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(
    long_run: tuple[Path, list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    """The signal goes to the loader's worker as well, as Ctrl-C and schedulers do it."""
    unbroken, options = long_run
    out = tmp_path / "stopped"
    rest = ["--out", str(out), "--save.minutes", "60", "--images.memory", "0", "--images.workers", "1"]
    process = start(["maskery", *options, *rest])
    wait_for(process, lambda: (out / "metrics.jsonl").exists() and len(metrics(out)) > 3)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert f"resume with: maskery resume {out}" in said
    assert len(list((out / "checkpoints").glob("step-*"))) == 1
    assert main(["resume", str(out)]) == 0
    assert_same_run(unbroken, out)


def test_a_signal_to_a_launcher_stops_all_processes_with_a_checkpoint(scene_folder: Path, tmp_path: Path) -> None:
    from maskery.options import options

    out = tmp_path / "two"
    leaves = TINY | {"data": str(scene_folder), "out": str(out), "steps": 5000}
    process = start([*TORCHRUN, "pretrain", *options(leaves)])
    wait_for(process, lambda: (out / "metrics.jsonl").exists() and len(metrics(out)) > 3)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    last = (out / "checkpoints" / "last").read_text().strip()
    assert int(last.removeprefix("step-")) < 5000, said


def launched(*args: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *TORCHRUN, *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_two_processes(scene_folder: Path, tmp_path: Path) -> None:
    """Two gloo ranks: identical weights (checked at every checkpoint), and resuming changes nothing there either."""
    from maskery.options import options

    first, second = tmp_path / "two", tmp_path / "again"
    leaves = TINY | {"data": str(scene_folder), "steps": 12, "save": {"every": 3, "keep": 0}}
    launched("pretrain", *options(leaves | {"micro_batch": 4}), "--out", str(first))
    assert json.loads((first / "environment.json").read_text())["processes"] == 2
    shutil.copytree(first, second)
    for step in (9, 12):
        shutil.rmtree(second / "checkpoints" / f"step-{step:08d}")
    launched("resume", str(second))
    assert_same_run(first, second)


def settings_of(method: str) -> dict[str, Any]:
    """Small settings of one method, with a teacher that is there."""
    teacher = {"teacher": "random:vit_tiny_patch16_224"} if method == "cmt-mae" else {}
    return TINY["settings"] | teacher


def assert_teacher_moves_once_a_step(run: Path, encoders: tuple[str, ...]) -> None:
    """teacher <- momentum teacher + (1 - momentum) student, momentum 0.996 -> 1, however many micro-batches."""
    states = [load_file(run / "checkpoints" / f"step-{s:08d}" / "model.safetensors") for s in (2, 3)]
    for teacher in (prefix for prefix in encoders if ".net." in prefix):
        student = next(prefix for prefix in encoders if prefix != teacher)
        name = "blocks.1.mlp.fc1.weight"
        momentum = cosine(0.996, 1.0, 3 / 8)
        expected = momentum * states[0][teacher + name] + (1 - momentum) * states[1][student + name]
        torch.testing.assert_close(states[1][teacher + name], expected, rtol=1e-6, atol=1e-8)
        assert not torch.equal(states[0][student + name], states[1][student + name])


OTHERS = [name for name in METHODS if name != "mae"]


@pytest.mark.parametrize("method", OTHERS)
def test_going_on_changes_nothing_for_any_method(scene_folder: Path, tmp_path: Path, method: str) -> None:
    """Teachers are saved, drawing has no state: 3 + 5 steps with accumulation are 8 steps."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    leaves = TINY | {"method": method, "settings": settings_of(method), "micro_batch": 8}
    maskery.pretrain(data=scene_folder, out=whole, steps=8, save={"every": 1, "keep": 0}, **leaves)
    shutil.copytree(whole, broken)
    for step in range(4, 9):
        shutil.rmtree(broken / "checkpoints" / f"step-{step:08d}")
    assert maskery.resume(broken).step == 8
    assert_same_run(whole, broken)
    assert len(list((whole / "samples").iterdir())) == 3
    assert metrics(whole)[0]["knn_mean_patch"] >= 0
    assert_teacher_moves_once_a_step(whole, METHODS[method].encoders)
    encoder = maskery.load(whole).state_dict()
    prefix = METHODS[method].encoders[0]
    saved = {n.removeprefix(prefix): v for n, v in weights(whole).items() if n.startswith(prefix)}
    assert encoder.keys() == saved.keys()
    assert all(torch.equal(v, saved[n]) for n, v in encoder.items())


def test_a_loss_that_is_no_number_stops_with_advice(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskery.options import options

    leaves = TINY | {"data": str(scene_folder), "steps": 40, "optim": {"base_lr": 1e30, "warmup": 0.0}}
    out = tmp_path / "run"
    assert main(["pretrain", *options(leaves), "--out", str(out)]) == 1
    assert "the loss is nan at step 4" in capsys.readouterr().err
    assert not list((out / "checkpoints").glob("step-*"))


def test_it_learns(scene_folder: Path, unbroken: Path) -> None:
    """Held-out loss falls below predicting each patch's mean, which is 1 for normalised pixels."""
    looks = [f["held_out_loss"] for f in metrics(unbroken) if "held_out_loss" in f]
    assert looks[0] > 1.2
    assert looks[-1] < 1.05


def test_the_logged_norm_is_the_gradients_before_clipping(scene_folder: Path, tmp_path: Path) -> None:
    """One step of plain SGD moves the weights by lr times the norm; what clips it changes no number of the log."""
    plain = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "base_lr": 1.0}
    logged = {}
    for name, clip in (("free", None), ("clipped", 1e-3)):
        optim = plain if clip is None else plain | {"clip_grad": clip}
        watch = TINY["watch"] | {"looks": 0, "log_every": 1}
        maskery.pretrain(data=scene_folder, out=tmp_path / name, steps=1, **TINY | {"optim": optim, "watch": watch})
        (line,) = metrics(tmp_path / name)
        logged[name] = line["grad_norm"]
        run = open_run(tmp_path / name).run
        torch.manual_seed(run.seed)
        before = METHODS["mae"](run.settings, run.vit()).state_dict()
        after = weights(tmp_path / name)
        moved = sum(float((after[n] - before[n]).double().square().sum()) for n in after if n in before) ** 0.5
        assert moved == pytest.approx(line["lr"] * (line["grad_norm"] if clip is None else clip), rel=1e-3)
    assert logged["free"] == logged["clipped"] > 1e-2


def test_what_is_left_open_is_decided(scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene_folder.parent)
    data = open_data(str(scene_folder), ImagesConfig(memory=0), (32, 32), Quiet())
    run = Run(settings=None, data=scene_folder.name, steps=3)
    resolved = resolve(run, data, torch.device("cpu"))
    assert resolved == replace(run, data=str(scene_folder), images=data.config, precision="float32", compile="off")
    assert resolved.images.mean is not None


def test_settings_that_were_given_stay(scene_folder: Path) -> None:
    data = open_data(str(scene_folder), ImagesConfig(memory=0), (32, 32), Quiet())
    run = Run(settings=None, data=str(scene_folder), precision="bf16", compile="on")
    assert (resolved := resolve(run, data, torch.device("cpu"))).precision == "bf16"
    assert resolved.compile == "on"
    assert resolve(resolved, data, torch.device("cpu")) == resolved

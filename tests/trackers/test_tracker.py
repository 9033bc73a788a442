"""Weights & Biases and MLflow, the real ones, without a network: what a run logs arrives, resumed runs go on, no
trouble stops a run."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import maskery
from maskery.cli import main
from maskery.config import LogConfig
from maskery.runs.directory import open_run
from maskery.runs.metrics import read_rows
from maskery.trackers import mlflow_run, wandb_run
from maskery.trackers import tracker as trackers
from maskery.trackers.tracker_ids import TrackerIds
from tests.test_train import TINY

FEW = TINY | {"save": {"every": 2, "keep": 0}}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes a call and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def lines_of(run: Path) -> list[dict[str, Any]]:
    return read_rows(run / "metrics.jsonl")


def stored_in(folder: Path, last: dict[str, Any]) -> bytes:
    """What was kept for `wandb sync`, its last line included: wandb's own process writes it in its own time."""
    file, until = next(folder.glob("*.wandb")), time.monotonic() + 20
    while json.dumps(last["held_out_loss"]).encode() not in file.read_bytes() and time.monotonic() < until:
        time.sleep(0.1)
    return file.read_bytes()


def shown_in(folder: Path) -> list[bytes]:
    """The pictures that were kept for `wandb sync`, in the order they were given."""
    files = (folder / "files" / "media" / "images").glob("samples_*.png")
    return [file.read_bytes() for file in sorted(files, key=lambda file: int(file.name.split("_")[1]))]


def strips_of(run: Path, *steps: int) -> list[bytes]:
    return [(run / "samples" / f"step-{step:08d}.png").read_bytes() for step in steps]


def cut_back(run: Path, step: int) -> None:
    """As if the machine had been lost after this checkpoint."""
    for folder in sorted((run / "checkpoints").glob("step-*"))[step // 2 :]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    (run / "checkpoints" / "last").write_text(f"step-{step:08d}\n")


def test_wandb_offline_and_resumed(scene_folder: Path, tmp_path: Path, offline: None) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    maskery.pretrain(data=scene_folder, out=run, steps=4, log={"wandb": "me/leaves"}, **FEW)
    name = json.loads((run / "tracking.json").read_text())["wandb"]
    first = next((run / "wandb").glob(f"offline-run-*-{name}"))
    stored = stored_in(first, lines_of(run)[-1])
    for facts in lines_of(run):
        for key in {"loss", "held_out_loss", "knn_mean_patch"} & facts.keys():
            assert key.encode() in stored
            assert json.dumps(facts[key]).encode() in stored
    assert b"leaves" in stored
    assert b"base_lr" in stored  # the settings
    assert shown_in(first) == strips_of(run, 0, 2, 4)
    cut_back(run, 2)
    time.sleep(1)  # its directories are named by the second
    maskery.resume(run)
    assert json.loads((run / "tracking.json").read_text())["wandb"] == name
    _, second = sorted((run / "wandb").glob(f"offline-run-*-{name}"))
    stored_in(second, lines_of(run)[-1])
    assert shown_in(second) == []  # they are there, in their order


def test_wandb_has_each_picture_once_where_the_last_ones_were_lost(
    scene_folder: Path, tmp_path: Path, offline: None
) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    maskery.pretrain(data=scene_folder, out=run, steps=4, log={"wandb": "leaves"}, **FEW)
    TrackerIds(run / "tracking.json")["wandb pictures"] = "2"  # as if it had stopped before step 4
    cut_back(run, 2)
    time.sleep(1)
    maskery.resume(run)
    _, second = sorted((run / "wandb").glob("offline-run-*"))
    stored_in(second, lines_of(run)[-1])
    assert shown_in(second) == strips_of(run, 4)


def test_a_picture_that_wandb_does_not_take_is_spoken_of_once(
    scene_folder: Path, tmp_path: Path, offline: None
) -> None:
    pytest.importorskip("wandb")
    run, said = tmp_path / "run", list[str]()
    maskery.pretrain(data=scene_folder, out=run, steps=1, **FEW)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asks = replace(open_run(run).run, log=LogConfig(wandb="leaves"))
    (tracker,) = trackers.open_trackers(asks, tmp_path / "again", said.append)
    for step in (0, 1):
        tracker.picture(tmp_path / "broken.png", step)
    tracker.picture(run / "samples" / "step-00000001.png", 1)
    tracker.log({"step": 1, "held_out_loss": 0.125})
    tracker.close(failed=False)
    assert len([line for line in said if "did not take a picture, samples/ has them" in line]) == 1
    (folder,) = (tmp_path / "again" / "wandb").glob("offline-run-*")
    assert b"0.125" in stored_in(folder, {"held_out_loss": 0.125})
    assert shown_in(folder) == strips_of(run, 1)


@pytest.mark.parametrize("answers", [False, True], ids=["nobody there", "somebody who says nothing"])
def test_wandb_that_cannot_be_reached_goes_on_offline(
    answers: bool,
    scene_folder: Path,
    tmp_path: Path,
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it remembers WANDB_MODE for the life of a process
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", silent if answers else "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT", 2.0)
    monkeypatch.setattr(wandb_run, "getproxies", dict)
    began = time.monotonic()
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=2, log={"wandb": "leaves"}, **FEW)
    assert time.monotonic() - began < 30
    said = capsys.readouterr().err
    assert "Weights & Biases cannot be reached" in said
    assert f"kept in {tmp_path / 'run' / 'wandb'} until `wandb sync` uploads it" in said
    first = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert json.dumps(lines_of(tmp_path / "run")[-1]["held_out_loss"]).encode() in stored_in(
        first, lines_of(tmp_path / "run")[-1]
    )
    assert lines_of(tmp_path / "run")[-1]["step"] == 2
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not [p for p in files if b"0" * 40 in p.read_bytes() and p.suffix not in (".safetensors", ".png")]


def test_mlflow_in_a_directory_and_resumed(scene_folder: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    run, store = tmp_path / "run", tmp_path / "ml runs"
    log = {"mlflow": str(store), "experiment": "leaves"}
    maskery.pretrain(data=scene_folder, out=run, steps=4, log=log, **FEW)
    name = json.loads((run / "tracking.json").read_text())["mlflow"]
    client = tracking.MlflowClient(tracking_uri=store.as_uri())
    assert client.get_experiment_by_name("leaves")
    found = client.get_run(name)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["optim.base_lr"] == "0.03"
    for key in ("loss", "held_out_loss", "knn_class_token", "lr"):
        wanted = {f["step"]: f[key] for f in lines_of(run) if key in f}
        assert {m.step: m.value for m in client.get_metric_history(name, key)} == wanted
    strips = [f"samples/step-{step:08d}.png" for step in (0, 2, 4)]
    assert [file.path for file in client.list_artifacts(name, "samples")] == strips
    for strip in strips:
        assert Path(client.download_artifacts(name, strip)).read_bytes() == (run / strip).read_bytes()
    cut_back(run, 2)
    maskery.resume(run)
    assert json.loads((run / "tracking.json").read_text())["mlflow"] == name
    again = {m.step: m.value for m in client.get_metric_history(name, "loss")}
    assert again == {f["step"]: f["loss"] for f in lines_of(run) if "loss" in f}
    assert client.get_run(name).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(name, "samples")] == strips


def test_mlflow_has_what_came_just_before_the_end(scene_folder: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    run, store = tmp_path / "run", tmp_path / "mlruns"
    maskery.pretrain(data=scene_folder, out=run, steps=1, **FEW)
    (tracker,) = trackers.open_trackers(
        replace(open_run(run).run, log=LogConfig(mlflow=str(store))), tmp_path / "again", print
    )
    tracker.log({"step": 0, "held_out_loss": 0.5})  # it has not called yet when the rest is there
    tracker.picture(run / "samples" / "step-00000000.png", 0)
    tracker.picture(run / "samples" / "step-00000001.png", 1)
    tracker.close(failed=True)
    client, name = (
        tracking.MlflowClient(tracking_uri=store.as_uri()),
        TrackerIds(tmp_path / "again/tracking.json")["mlflow"],
    )
    assert len(client.list_artifacts(name, "samples")) == 2
    assert client.get_run(name).info.status == "FAILED"


def test_mlflow_where_pictures_cannot_be_kept_has_the_numbers(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    run, store = tmp_path / "run", tmp_path / "mlruns"
    (tmp_path / "file").write_text("no directory")
    client = tracking.MlflowClient(tracking_uri=store.as_uri())
    client.create_experiment("leaves", artifact_location=(tmp_path / "file" / "in it").as_uri())
    maskery.pretrain(data=scene_folder, out=run, steps=4, log={"mlflow": str(store), "experiment": "leaves"}, **FEW)
    assert capsys.readouterr().err.count("did not take a picture, samples/ has them") == 1
    name = json.loads((run / "tracking.json").read_text())["mlflow"]
    history = client.get_metric_history(name, "held_out_loss")
    assert {m.step: m.value for m in history} == {
        f["step"]: f["held_out_loss"] for f in lines_of(run) if "held_out_loss" in f
    }
    assert client.get_run(name).info.status == "FINISHED"


def test_a_server_that_does_not_answer_stops_nobody(
    scene_folder: Path, tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow_run, "CLOSE_TIMEOUT", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    began = time.monotonic()
    result = maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=2, log={"mlflow": silent}, **FEW)
    assert time.monotonic() - began < 60
    assert result.step == 2
    assert "did not take everything; metrics.jsonl has it" in capsys.readouterr().err
    assert lines_of(tmp_path / "run")[-1]["step"] == 2


def test_one_that_refuses_is_told_once(
    scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = {"mlflow": "http://127.0.0.1:9"}
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=2, log=log, **FEW)
    said = capsys.readouterr().err
    assert 1 <= said.count("did not take the metrics, metrics.jsonl has them") <= 2  # at first, and at the end
    assert "did not take a picture" not in said  # nobody was asked


def test_without_being_asked_nothing_is_opened(scene_folder: Path, tmp_path: Path) -> None:
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=1, **FEW)
    assert not (tmp_path / "run" / "tracking.json").exists()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["log"] == {
        "wandb": None,
        "mlflow": None,
        "experiment": "maskery",
    }


def test_what_cannot_be_is_said_before_anything_runs(
    tmp_path: Path, scene_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["pretrain", "--data", str(scene_folder), "--out", str(tmp_path / "run"), "--steps", "1"]
    args += ["--batch-size", "2", "--watch.looks", "0"]
    assert main([*args, "--log.mlflow", "https://me:secret@host"]) == 1
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "secret@" not in said
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)  # as where the extras are not installed
    assert main([*args, "--log.wandb", "leaves"]) == 1
    assert "--log.wandb needs wandb: pip install '.[wandb]'" in capsys.readouterr().err
    with pytest.raises(ImportError, match=r"pip install '.\[mlflow\]'"):
        trackers.check_trackers(LogConfig(mlflow="runs"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_of_names_is_no_reason_to_stop(tmp_path: Path) -> None:
    names = TrackerIds(tmp_path / "tracking.json")
    names["wandb"] = "a"
    names["mlflow"] = "b"
    assert (names["wandb"], names["mlflow"]) == ("a", "b")
    names.path.write_text("{")
    assert names["wandb"] is None
    names["wandb"] = "c"
    assert json.loads(names.path.read_text()) == {"wandb": "c"}

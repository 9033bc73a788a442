"""`maskery compare` as a finished: tiny real comparisons, and the files they write."""

import json
import re
import shutil
import signal
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

import maskery
from maskery.cli import STOPPED, main
from maskery.options import options
from tests.bad_input import BadInput, assert_refused
from tests.interrupting import signal_when
from tests.test_train import TINY, metrics

WATCH = {"log_every": 2, "looks": 2, "pictures": 1, "held_out": 8, "knn_bank": 500, "knn_queries": 500}
SMALL = TINY | {"watch": WATCH, "images": {"workers": 0}, "methods": "mae,rc-mae", "seeds": 2, "steps": 4}
MEASURES = ("knn_mean_patch", "knn_class_token", "linear_mean_patch", "linear_class_token")


def command(scenes: Path, out: Path, **leaves: Any) -> list[str]:
    return ["compare", *options(SMALL | {"data": str(scenes), "out": str(out)} | leaves)]


def facts_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "compare.json").read_text())


@pytest.fixture(scope="module")
def finished(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    made = maskery.compare(data=scene_folder, out=out, **SMALL | {"methods": ["mae", "rc-mae"]})
    assert not made.stopped
    assert [row["label"] for row in made.table] == ["random initialisation", "mae", "rc-mae"]
    return out


def test_the_directory_holds_ordinary_runs_and_the_page(finished: Path) -> None:
    runs = {f"{label}-seed{seed}" for label in ("mae", "rc-mae") for seed in (0, 1)}
    assert {p.name for p in finished.iterdir()} == runs | {"compare.json", "compare.html", "compare.png"}
    for name in runs:
        config = yaml.safe_load((finished / name / "config.yaml").read_text())
        assert (config["method"], config["seed"]) == (name.partition("-seed")[0], int(name[-1]))
        assert (finished / name / "checkpoints" / "last").read_text() == "step-00000004\n"
        assert [f["step"] for f in metrics(finished / name) if "loss" not in f] == [0, 2, 4]
    html = (finished / "compare.html").read_text()
    assert html.count("data:image/webp;base64,") == 2  # a strip of each method
    assert html.count('<figure class="chart') == 2  # over epochs and over training time


def test_random_initialisation_is_step_0_of_every_method(finished: Path) -> None:
    facts = facts_of(finished)
    assert facts["starts"].keys() == {"0", "1"}
    assert facts["starts"]["0"] != facts["starts"]["1"]
    for label, seed in product(("mae", "rc-mae"), ("0", "1")):
        first = metrics(finished / f"{label}-seed{seed}")[0]
        assert first["step"] == 0
        assert all(facts["starts"][seed][name] == first[name] for name in ("knn_mean_patch", "knn_class_token"))


def test_the_numbers_are_those_of_the_finished_runs(finished: Path) -> None:
    facts = facts_of(finished)
    assert facts["finished"]
    assert [run["directory"] for run in facts["runs"]] == ["mae-seed0", "rc-mae-seed0", "mae-seed1", "rc-mae-seed1"]
    for run in facts["runs"]:
        folder = finished / run["directory"]
        assert json.loads((folder / "evals" / "compare.json").read_text()) == run
        last = metrics(folder)[-1]
        assert last["step"] == run["steps"] == 4
        assert run["epochs"] == pytest.approx(4 * 16 / 100)
        assert run["knn_mean_patch"] == last["knn_mean_patch"]  # the looks ask the same images here
        assert run["training_seconds"] > 0
        assert [look["step"] for look in run["looks"]] == [0, 2, 4]
        assert run["looks"][-1]["seconds"] == pytest.approx(run["training_seconds"])
    for row in facts["table"][1:]:
        own = [run for run in facts["runs"] if run["label"] == row["label"]]
        for name in MEASURES:
            values = [run[name] for run in own]
            assert row[name]["mean"] == pytest.approx(statistics.mean(values))
            assert row[name]["std"] == pytest.approx(statistics.stdev(values))
            above = [run[name] - facts["starts"][str(run["seed"])][name] for run in own]
            assert row["above_start"][name]["mean"] == pytest.approx(statistics.mean(above))
    assert "2 seeds are too few to tell" in facts["reading"][0]


def test_again_it_runs_nothing_and_says_the_same(
    finished: Path, scene_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, kept = facts_of(finished), (finished / "mae-seed1" / "metrics.jsonl").stat().st_mtime_ns
    assert main(command(scene_folder, finished)) == 0
    assert (finished / "mae-seed1" / "metrics.jsonl").stat().st_mtime_ns == kept
    after = facts_of(finished)
    assert (after["runs"], after["table"], after["starts"]) == (before["runs"], before["table"], before["starts"])
    output = capsys.readouterr()
    assert "training on" not in output.err
    assert "random initialisation" in output.out
    assert f"page     {finished / 'compare.html'}" in output.out


def test_an_interrupted_comparison_goes_on_as_if_nothing_had_happened(
    finished: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `kill -9`: one run trained but not measured, one half-way, one without a checkpoint."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for name in ("rc-mae-seed0", "mae-seed1", "rc-mae-seed1"):
        (out / name / "evals" / "compare.json").unlink()
    shutil.rmtree(out / "mae-seed1" / "checkpoints")
    shutil.rmtree(out / "rc-mae-seed1")
    assert main(command(scene_folder, out)) == 0
    output = capsys.readouterr().err
    assert "run 1 of 4" not in output
    assert "run 2 of 4: rc-mae, seed 0, about" in output
    assert "resuming from step-00000004" in output
    assert "run 4 of 4: rc-mae, seed 1" in output
    for name in ("mae-seed0", "rc-mae-seed0", "mae-seed1", "rc-mae-seed1"):
        assert metrics(out / name) == metrics(finished / name)
    for run, other in zip(facts_of(out)["runs"], facts_of(finished)["runs"], strict=True):
        assert all(run[name] == other[name] for name in ("label", "seed", *MEASURES))


@pytest.mark.parametrize("moment", ["training", "the last look", "measuring"])
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    out = tmp_path / "out"
    steps = 40 if moment == "training" else 4
    args = command(scene_folder, out, methods="mae,rc-mae", seeds=1, steps=steps)
    file, word, count = {
        "training": ("metrics.jsonl", '"loss"', 3),
        "the last look": ("metrics.jsonl", '"loss"', 2),  # of steps 2 and 4: there is nothing left to stop
        "measuring": ("evals/before-after.json", "held_out", 1),
    }[moment]
    file = out / "mae-seed0" / file

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with signal_when(file, word, count):
            assert main(args) == STOPPED
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # everything is put back
    finally:
        signal.signal(signal.SIGTERM, before)
    assert f"the same command goes on with {out}" in capsys.readouterr().err
    assert list((out / "mae-seed0" / "checkpoints").glob("step-*"))
    assert not (out / "rc-mae-seed0").exists()
    assert not facts_of(out)["finished"]
    if moment == "training":
        assert main(args) == 0
        assert facts_of(out)["finished"]
        assert [run["steps"] for run in facts_of(out)["runs"]] == [steps, steps]


def test_a_changed_option_is_refused_by_its_name(
    finished: Path, scene_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "compare.json").read_bytes()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"optim": {"base_lr": 0.5, "clip_grad": 5.0}}, "with optim.base-lr 0.03, not 0.5"),
        ({"methods": "mae,naive=rc-mae"}, "with methods mae=mae,rc-mae=rc-mae, not mae=mae,naive=rc-mae"),
        ({"seeds": 3}, "with seeds [0, 1], not [0, 1, 2]"),
        ({"steps": None, "budget": "epochs:2"}, "with budget None, not epochs:2"),
        ({"rc_mae": {"gamma": 0.5}}, "with rc-mae.gamma 1.0, not 0.5"),
    ]
    for change, words in changes:
        assert main(command(scene_folder, finished, **change)) == 1
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert (finished / "compare.json").read_bytes() == before


def test_what_is_no_comparison_is_never_touched(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "me.jpg").write_bytes(b"x")
    for more in ([], ["--overwrite"]):
        assert main([*command(scene_folder, tmp_path), *more]) == 1
        assert "holds something else than a comparison" in capsys.readouterr().err
    (tmp_path / "compare.json").write_text("{")
    assert main([*command(scene_folder, tmp_path), "--overwrite"]) == 1
    assert "compare.json: damaged" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"me.jpg", "compare.json"}


def test_overwrite_begins_anew_and_leaves_what_is_not_ours(finished: Path, scene_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "notes.txt").write_text("mine")
    args = [*command(scene_folder, out, methods="mae", seeds=1, steps=None), "--overwrite", "--budget", "epochs:0.5"]
    assert main([*args, "--patch-size", "7"]) == 1  # nothing is removed before everything is checked
    assert (out / "rc-mae-seed1").exists()
    assert main(args) == 0
    left = {"mae-seed0", "notes.txt", "compare.json", "compare.html", "compare.png"}
    assert {p.name for p in out.iterdir()} == left
    assert facts_of(out)["runs"][0]["steps"] == 3  # half an epoch of 100 images in batches of 16


def test_equal_time_gives_each_method_its_own_steps(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    leaves = {"steps": None, "budget": "time:0.3s", "seeds": 1, "watch": WATCH | {"looks": 0}}
    assert main(command(scene_folder, out, **leaves)) == 0
    facts, output = facts_of(out), capsys.readouterr()
    assert facts["seconds_per_step"].keys() == {"mae", "rc-mae"}
    for run in facts["runs"]:
        steps = max(1, int(0.3 / facts["seconds_per_step"][run["label"]]))
        assert run["steps"] == steps
        assert yaml.safe_load((out / run["directory"] / "config.yaml").read_text())["steps"] == steps
        assert f"so 0.3 s are {steps:,} steps" in output.err
    assert not (out / ".timing").exists()
    assert not (out / "compare.png").exists()  # no looks, no curves
    assert "no picture: no kNN was made" in output.out


def test_without_labels_methods_are_not_ranked(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    leaves = {"images": {"workers": 0, "labels": False}, "methods": "mae", "seeds": 1, "steps": 2}
    assert main(command(scene_folder, out, **leaves)) == 0
    facts, output = facts_of(out), capsys.readouterr()
    assert "the methods will not be ranked: the images have no labels" in output.err
    assert "cannot be ranked, because the images have no labels" in facts["reading"][0]
    assert facts["reading"][0] in output.out
    assert facts["starts"] == {}
    assert not set(MEASURES) & facts["runs"][0].keys()
    assert facts["table"][1]["training_seconds"]["mean"] > 0
    assert "data:image/webp" in (out / "compare.html").read_text()


def test_a_method_that_diverges_does_not_end_the_comparison(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wild = {"methods": "wild=rc-mae,mae", "wild": {"gamma": 1e39}, "seeds": 1}
    assert main(command(scene_folder, out, **wild)) == 0
    facts, output = facts_of(out), capsys.readouterr()
    assert "wild, seed 0: the loss is" in facts["reading"][-1]
    assert "the comparison goes on without this run" in output.err
    assert "mae comes first" in facts["reading"][0]
    assert "knn_mean_patch" not in facts["table"][1]
    assert main(command(scene_folder, out, **wild)) == 0  # it would diverge again
    assert "training on" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "more", "code", "words"),
    [
        ({"methods": "mae,rc-mea"}, [], 2, "there is no method 'rc-mea'; did you mean rc-mae?"),
        ({}, ["--rc-mae.gama", "1"], 2, "did you mean --rc-mae.gamma?"),
        ({}, ["--rc-mae.mask-ratio", "0.99"], 1, "rc-mae: mask ratio 0.99 leaves 0 of 16 patches visible"),
        ({"data": "/nowhere/at/all"}, [], 1, "/nowhere/at/all: no such file or folder"),
        ({}, ["--budget", "time:5"], 2, "--budget is 'time:5'"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    scene_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    more: list[str],
    code: int,
    words: str,
) -> None:
    args = [*command(scene_folder, tmp_path / "out", **change), *more]
    assert_refused(args, BadInput(re.escape(words), code=code), capsys, tmp_path / "out")


def test_torchrun_is_refused(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command(scene_folder, tmp_path / "out")) == 2
    assert "maskery compare runs in one process" in capsys.readouterr().err

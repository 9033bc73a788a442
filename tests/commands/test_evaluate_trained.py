"""`maskery eval probe` and `eval finetune` as a whole: tiny real runs, compared, interrupted, and refused."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import maskery
from maskery.cli import MISUSED, STOPPED, main
from maskery.commands.evaluate_trained import HIDDEN, TaskCommand, TaskStudyResult, evaluate
from maskery.config import Run
from maskery.data.sources.open import open_source
from maskery.evals.results import END, RANDOM, START, fingerprint, read_result, read_results
from maskery.nn.vit import SIZES, ViT, ViTConfig
from maskery.options import UsageError, options
from maskery.tasks import TASKS
from maskery.weights.load import load_encoder
from tests.bad_input import BadInput, assert_refused, misused
from tests.exported import to_timm
from tests.interrupting import signal_when
from tests.tasks.images import noise, several, two_colours
from tests.test_train import TINY, assert_same_run, metrics, weights

QUICK: dict[str, Any] = {
    "steps": 2,
    "batch_size": 8,
    "watch": {"log_every": 1, "looks": 0},
    "images": {"workers": 0},
    "overlap": False,
}
LABELS = {RANDOM: "random", START: "start", END: "end"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("images") / "colours", {"train": 20, "val": 10})


@pytest.fixture(scope="module")
def places(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """first: a run from random weights; second: one from first; other: weights without a run."""
    out = tmp_path_factory.mktemp("places")
    leaves = TINY | {"steps": 1, "watch": {"looks": 0}, "images": {"workers": 0}}
    maskery.pretrain(data=colours, out=out / "first", **leaves)
    maskery.pretrain(data=colours, out=out / "second", init=str(out / "first"), **leaves)
    torch.manual_seed(7)
    size = SIZES["vit-micro"]
    to_timm(ViT(ViTConfig(size.dim, size.depth, size.heads, 8, (32, 32))), out / "other")
    return out


def four_candidates(places: Path, colours: Path) -> dict[str, Any]:
    beside = ["random", "start", str(places / "other")]
    leaves = {"where": places / "second", "data": colours, "beside": beside, "seeds": 2}
    return QUICK | leaves | {"json": places / "own.json", "settings": {"lrs": [1.0], "labels": {"tune": 0.0}}}


@pytest.fixture(scope="module")
def finished(places: Path, colours: Path) -> TaskStudyResult:
    return evaluate("probe", **four_candidates(places, colours))


def command(kind: str, leaves: dict[str, Any]) -> list[str]:
    rest = {name: value for name, value in leaves.items() if name != "where"}
    return ["eval", kind, str(leaves["where"]), *options(rest)]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


# ----------------------------------------------------------------------------------------------------- compared
def test_every_candidate_is_a_run_of_each_seed(finished: TaskStudyResult, places: Path) -> None:
    assert finished.out == places / "second" / "evals" / "probe"
    other = str(places / "other")
    folders = {**LABELS, other: other.replace("/", "-").strip("-")}
    assert [r.of for r in finished.results] == [RANDOM, START, END, other]
    assert {p.name for p in finished.out.iterdir()} == {f"{f}-seed{s}" for f in folders.values() for s in (0, 1)}
    wanted = {START: places / "first", END: places / "second", other: places / "other"}
    for label, folder in folders.items():
        encoders = []
        for seed in (0, 1):
            run = finished.out / f"{folder}-seed{seed}"
            config = yaml.safe_load((run / "config.yaml").read_text())
            assert (config["seed"], config["settings"]["labels"]["draw"]) == (seed, seed)
            assert config["init"] == (str(wanted[label]) if label in wanted else None)
            encoders.append({n[8:]: t for n, t in weights(run).items() if n.startswith("encoder.")})
            own = read_result(run / "evals" / "result.json")
            assert (own.of, own.seed, own.evaluation, own.drawn) == (label, seed, "probe", True)
        if label in wanted:  # frozen: what was probed is what was asked for
            there = load_encoder(wanted[label]).state_dict()
            assert all(torch.equal(t, there[n]) for e in encoders for n, t in e.items())
        else:
            assert not torch.equal(*(e["blocks.0.attn.qkv.weight"] for e in encoders))


def test_the_files_hold_means_and_every_seed(finished: TaskStudyResult, places: Path) -> None:
    kept = [read_result(file) for file in (places / "second" / "evals").glob("probe-*.json")]
    assert {r.of for r in kept} == {r.of for r in finished.results}
    for result in kept:
        assert len({r.fingerprint for r in kept} | {result.fingerprint}) == 1
        assert result.by_seed.keys() == {"0", "1"}
        singles = [read_result(next(finished.out.glob(f"*seed{s}/evals/result.json"))) for s in (0, 1)]
        assert all(r.protocol == result.protocol for r in singles)
        for name, value in result.numbers.items():
            assert value == pytest.approx(sum(n[name] for n in result.by_seed.values()) / 2)
        assert (result.counts["train"], result.counts["held_out"], result.counts["classes"]) == (40, 20, 2)
        assert "2 steps, batch 8, sgd" in result.protocol
        assert result.made
        assert result.versions["torch"]
    own = read_results(places / "own.json")
    assert [(r.of, r.weights) for r in own] == [(r.of, r.weights) for r in finished.results]


def test_again_it_trains_nothing_and_prints_the_same_table(
    finished: TaskStudyResult, places: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(finished.out.glob("*/metrics.jsonl"))
    before = [file.stat().st_mtime_ns for file in files]
    assert main(command("probe", four_candidates(places, colours))) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    output = capsys.readouterr()
    assert "training on" not in output.err
    assert finished.table is not None
    assert "\n".join(finished.table.lines()) in output.out
    for word in (RANDOM, START, END, str(places / "other"), "±", f"points above {RANDOM}", "pretraining paid off"):
        assert word in output.out
    assert output.out.endswith(f"runs     {finished.out}\n")


def test_another_evaluation_in_the_same_place_is_refused(
    finished: TaskStudyResult, places: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished.out / "end-seed0" / "metrics.jsonl").stat().st_mtime_ns
    message = "random-seed0: holds another evaluation; --overwrite replaces it, --out takes another directory"
    assert_refused(command("probe", four_candidates(places, colours) | {"steps": 3}), BadInput(message), capsys)
    assert (finished.out / "end-seed0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_what_is_no_evaluation_is_never_removed(
    finished: TaskStudyResult, places: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out / "end-seed0", out / "end-seed0")
    (out / "me.jpg").write_bytes(b"x")
    leaves = QUICK | {"where": places / "other", "data": colours, "out": out, "steps": 1, "overwrite": True}
    assert main(command("probe", leaves)) == 1
    assert "holds something else than evaluations (me.jpg)" in last_line(capsys)
    (out / "me.jpg").unlink()
    assert main([*command("probe", leaves), "--settings.blocks", "9"]) == 1  # nothing goes before everything is checked
    assert {p.name for p in out.iterdir()} == {"end-seed0"}
    made = evaluate("probe", **leaves)
    assert [p.name for p in out.iterdir()] == [f"{made.results[0].of.replace('/', '-').strip('-')}-seed0"]


def test_killed_before_its_first_checkpoint_it_starts_from_its_weights_again(
    finished: TaskStudyResult, places: Path, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    for part in ("checkpoints", "evals"):
        shutil.rmtree(out / "end-seed1" / part)
    evaluate("probe", **four_candidates(places, colours) | {"out": out, "json": None})
    assert_same_run(finished.out / "end-seed1", out / "end-seed1")


# ----------------------------------------------------------------------------------------------------- few labels
@pytest.mark.parametrize("few", [{"shots": 3}, {"labels": "15%"}])
def test_few_labels_are_drawn_anew_for_every_seed(
    places: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], few: dict[str, Any]
) -> None:
    leaves = QUICK | few | {"where": places / "other", "data": colours, "out": tmp_path / "out", "seeds": 2}
    settings = {"labels": {"tune": 0.34}}
    assert main(command("finetune", leaves | {"settings": settings, "watch": QUICK["watch"] | {"best": None}})) == 0
    output = capsys.readouterr().out
    assert " ± " in output
    assert ("3 labels a class" if "shots" in few else "15% of the labels") in output
    trained_on = set()
    for run in (tmp_path / "out").iterdir():
        result = read_result(run / "evals" / "result.json")
        assert (result.counts["train"], result.counts["tune"], result.counts["held_out"]) == (4, 2, 20)
        trained_on.add(json.loads(next(run.glob("checkpoints/step-*/state.json")).read_text())["trained_on"])
    assert len(trained_on) == 2


def test_one_label_a_class_is_enough(places: Path, colours: Path, tmp_path: Path) -> None:
    """Nothing can be kept out of it to choose by."""
    for kind in ("probe", "finetune"):
        leaves = QUICK | {"watch": {"log_every": 1, "looks": 1}, "shots": 1, "where": places / "other"}
        made = evaluate(kind, data=colours, out=tmp_path / kind, **leaves)
        assert (made.results[0].counts["train"], made.results[0].counts["tune"]) == (2, 0)


# ----------------------------------------------------------------------------------------------------- what it finds
def test_what_is_easy_is_learned_and_what_cannot_be_is_not(places: Path, colours: Path, tmp_path: Path) -> None:
    leaves = {"where": places / "other", "batch_size": 16, "steps": 20, "overlap": False}
    easy = evaluate("probe", data=colours, out=tmp_path / "easy", watch=QUICK["watch"], **leaves).results[0]
    assert easy.numbers["top1"] == 1.0
    coins = noise(tmp_path / "coins", {"train": 60, "val": 50})
    hard = evaluate("probe", data=coins, out=tmp_path / "hard", watch=QUICK["watch"], **leaves).results[0]
    assert 0.3 < hard.numbers["top1"] < 0.7  # four standard deviations of 100 tosses


def test_images_with_several_labels_by_the_recipe(places: Path, tmp_path: Path) -> None:
    """Left and right half have a label each: the mean patch token, and what is best, are found by mAP."""
    leaves = QUICK | {"where": places / "other", "data": several(tmp_path), "watch": {"log_every": 1, "looks": 2}}
    tuned = evaluate("finetune", out=tmp_path / "finetune", **leaves)
    looks = [line for line in metrics(next((tmp_path / "finetune").iterdir())) if "loss" not in line]
    assert all({"map", "tune_map", "held_out_loss"} <= look.keys() for look in looks)
    assert (next((tmp_path / "finetune").iterdir()) / "checkpoints" / "best").is_dir()
    assert tuned.results[0].tables["average precision"].keys() == {"blue", "red"}
    leaves |= {"steps": 60, "settings": {"pooling": "mean_patch"}, "watch": QUICK["watch"]}
    probed = evaluate("probe", out=tmp_path / "probe", **leaves)
    assert probed.results[0].numbers["map"] > 0.95
    assert probed.results[0].fingerprint == tuned.results[0].fingerprint


def test_held_out_images_that_are_trained_on_are_reported(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = two_colours(tmp_path / "images", {"train": 12, "val": 3})
    shutil.copy(folder / "train" / "red" / "000.png", folder / "val" / "red" / "again.png")
    leaves = QUICK | {"where": places / "other", "data": folder, "out": tmp_path / "out", "overlap": True}
    assert main(command("probe", leaves | {"json": tmp_path / "own.json"})) == 0
    warning = "1 of 7 test images (14.3%) are training images too, byte for byte"
    assert warning in capsys.readouterr().err
    assert any(warning in note for note in read_result(tmp_path / "own.json").notes)


# ----------------------------------------------------------------------------------------------------- stopped
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_the_same_command_ends_as_an_unbroken_one(
    places: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    kind = "finetune" if number == signal.SIGINT else "probe"
    watch = {"log_every": 1, "looks": 2, "pictures": 0}
    leaves = QUICK | {"where": places / "first", "data": colours, "steps": 12, "watch": watch}
    leaves |= {"settings": {"average": 0.5}} if kind == "finetune" else {"settings": {"lrs": [1.0, 3.0]}}
    stopped, folder = tmp_path / "stopped", "end-seed0"
    lines = stopped / folder / "metrics.jsonl"

    with signal_when(lines, '"loss"', 3, number):
        assert main(command(kind, leaves | {"out": stopped})) == STOPPED
    assert "stopped by a signal; the same command goes on" in capsys.readouterr().err
    assert 3 <= max(line["step"] for line in metrics(stopped / folder)) < 12
    assert main(command(kind, leaves | {"out": stopped})) == 0
    assert "resuming from step-" in capsys.readouterr().err
    unbroken = evaluate(kind, **leaves | {"out": tmp_path / "unbroken"})
    assert_same_run(unbroken.out / folder, stopped / folder)
    one, other = (read_result(out / folder / "evals" / "result.json") for out in (unbroken.out, stopped))
    assert (one.numbers, one.fingerprint, one.protocol) == (other.numbers, other.fingerprint, other.protocol)


# ----------------------------------------------------------------------------------------------------- refused
def one_class(folder: Path) -> Path:
    two_colours(folder, {"train": 12, "val": 3})
    shutil.rmtree(folder / "train" / "red")
    return folder


def flat(folder: Path) -> Path:
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("kind", "change", "code", "words"),
    [
        ("probe", {"data": flat}, 1, "have no labels"),
        ("finetune", {"data": one_class}, 1, "training images are all of one class (blue): there is nothing to tell"),
        ("probe", {"data": "/nowhere/at/all"}, 1, "/nowhere/at/all: no such file or folder"),
        ("probe", {"data": None}, MISUSED, "--data is missing"),
        ("probe", {"where": "/nowhere"}, 1, "/nowhere: there is nothing"),
        ("probe", {"out": None}, MISUSED, "--out is missing"),
        ("probe", {"seeds": 0}, MISUSED, "--seeds is 0: it has to be at least 1"),
        ("probe", {"beside": ["start"]}, 1, "--beside start: "),
        ("probe", {"shots": 1, "labels": "1%"}, 1, "not both"),
        ("probe", {"labels": "5 images"}, 1, "labels is '5 images'"),
        ("finetune", {"shots": 21}, 1, "21 labelled training images of each class are wanted, but blue has 20"),
        ("finetune", {"setings": {"mixup": 1}}, MISUSED, "did you mean --settings.mixup?"),
        ("finetune", {"steps": 0}, MISUSED, "one of them has to be above 0"),
        ("finetune", {"settings": {"layer_decay": 0}}, 1, "nothing but the head would learn"),
        ("probe", {"settings": {"layer": 7}}, 1, "this encoder has 6 blocks"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    places: Path,
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    change: dict[str, Any],
    code: int,
    words: str,
) -> None:
    out = tmp_path / "out"
    leaves = QUICK | {"where": places / "other", "data": colours, "out": out} | change
    if callable(leaves["data"]):
        leaves["data"] = leaves["data"](tmp_path / "images")
    args = command(kind, {k: v for k, v in leaves.items() if v is not None})
    assert_refused(args, BadInput(re.escape(words), code=code), capsys, out)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["probe"], "maskery eval probe WHERE: a run or weights are missing"),
        (["finetune", "run", "--quick"], "finetune has no quick form"),
        (["prob"], "did you mean probe?"),
    ],
)
def test_nothing_is_evaluated_without_a_place(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["eval", *args], misused(re.escape(words)), capsys)


def test_a_number_to_choose_by_that_no_look_has(
    places: Path, colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = {"log_every": 1, "looks": 1, "best": "tune_topl"}
    leaves = QUICK | {"where": places / "other", "data": colours, "out": tmp_path / "out", "watch": watch}
    message = "--watch.best tune_topl: looks have no such number; they have: held_out_loss, top1, tune_top1"
    assert_refused(command("finetune", leaves), BadInput(message), capsys)


def test_weights_of_a_run_are_not_changed_by_evaluating_them(finished: TaskStudyResult, places: Path) -> None:
    last = places / "second" / "checkpoints" / (places / "second" / "checkpoints" / "last").read_text().strip()
    assert load_file(last / "model.safetensors").keys() == weights(places / "second").keys()
    assert {p.name for p in (places / "second" / "checkpoints").iterdir()} == {last.name, "last"}


def test_every_evaluation_reports_on_the_same_images(places: Path, tmp_path: Path) -> None:
    folder = two_colours(tmp_path / "images", {"train": 10, "val": 6, "test": 4})
    shutil.copy(folder / "train" / "red" / "000.png", folder / "test" / "red" / "000.png")  # there is one to be found
    shutil.copy(folder / "train" / "blue" / "000.png", folder / "val" / "blue" / "000.png")  # not reported on
    source = open_source(folder)
    train, test = (np.flatnonzero(source.splits == name) for name in ("train", "test"))
    quick = options(QUICK | {"steps": 1, "watch": {"looks": 1, "knn_bank": 0}, "overlap": True})
    classifier = tmp_path / "finetune" / "end-seed0"
    for what, *more in (
        ["knn", str(places / "first")],
        ["probe", str(places / "first"), "--quick"],
        ["probe", str(places / "first"), "--out", str(tmp_path / "probe"), *quick],
        ["finetune", str(places / "first"), "--out", str(tmp_path / "finetune"), *quick],
        ["robustness", str(classifier), "--corruptions", "brightness"],
    ):
        file = tmp_path / "result.json"
        assert main(["eval", what, *more, "--data", str(folder), "--json", str(file)]) == 0
        result = read_result(file)
        learned = train[:0] if what == "robustness" else train
        assert result.fingerprint == fingerprint(source, learned, test), what
        twice = [note for note in result.notes if "are training images too" in note]
        assert [note[:23] for note in twice] == ["1 of 8 test images (12.5"[:23]] * (what != "robustness"), what
        file.unlink()
    looks = [facts for facts in metrics(classifier) if "tune_top1" in facts]
    assert looks, "what is to be chosen is chosen by the other split"


# ----------------------------------------------------------------------------------------------------- options
def parse(*args: str) -> TaskCommand:
    return TaskCommand.parse("finetune", ["--data", "d", *args])


@pytest.mark.parametrize(
    ("args", "name"),
    [([], "finetune"), (["--shots", "5"], "finetune-5-shots"), (["--labels", "1%"], "finetune-1percent")],
)
def test_runs_lie_in_the_run_that_is_evaluated(args: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert parse("--where", str(tmp_path), *args).out == tmp_path / "evals" / name
    assert parse("--where", str(tmp_path), *args, "--out", "o").out == Path("o")


def test_options_replace_what_a_recipe_says() -> None:
    args = ["--epochs", "3", "--settings.mixup", "0.5", "--seed", "4", "--seeds", "2"]
    command = parse("--where", "w", "--out", "o", *args)
    run = command.apply_to(Run(TASKS["finetune"].Config(), steps=100, batch_size=64))
    assert (run.epochs, run.steps, run.batch_size, run.settings.mixup) == (3, None, 64, 0.5)
    assert command.seeds == range(4, 6)


@pytest.mark.parametrize("name", HIDDEN[Run])
def test_what_the_weights_decide_is_no_option(name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UsageError, match=f"Unrecognized options: {option}"):
        parse("--where", "w", "--out", "o", option, "16")


def test_the_help_has_no_hidden_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "--image-size" in shown
    assert "--settings.mixup" in shown
    assert not any(f"--{name.replace('_', '-')} " in shown for name in HIDDEN[Run])

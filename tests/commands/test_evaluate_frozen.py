"""Evaluations that train nothing, from the command line, reading the files they write."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import maskery
from maskery.cli import main
from maskery.commands.evaluate_frozen import quick_probe
from maskery.config import ImagesConfig
from maskery.data.dataset import open_data
from maskery.demo import scenes
from maskery.evals.candidates import Candidate
from maskery.evals.features import features
from maskery.evals.knn import Voting, knn_scores, labelled_token
from maskery.evals.linear_probe import probe
from maskery.evals.metrics import multilabel, scores
from maskery.evals.results import END, RANDOM, START, read_result, read_results
from maskery.nn.vit import ViT, ViTConfig
from maskery.terminal import Quiet
from maskery.weights.load import load_encoder
from tests.bad_input import BadInput, assert_refused
from tests.exported import to_timm
from tests.test_train import TINY


@pytest.fixture(scope="module")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=6, **TINY)
    return out


def accuracies(encoder: ViT, folder: Path, k: int = 20) -> dict[str, float]:
    """kNN accuracy on the scenes, straight from the parts."""
    data = open_data(str(folder), ImagesConfig(), encoder.config.image_size, Quiet())
    assert data.labels is not None
    bank, queries = (features(encoder, data.images, part) for part in (data.train, data.held_out))
    accuracies = {}
    for name in ("mean_patch", "class_token"):
        labelled = (labelled_token(part, name, data.labels) for part in (bank, queries))
        accuracies[f"knn_{name}"] = knn_scores(*labelled, len(data.classes), Voting(k))["top1"]
    return accuracies


# ------------------------------------------------------------------------------------------------ nearest neighbours
def test_knn(run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "knn", str(run), "--data", str(scene_folder), "--json", str(tmp_path / "knn.json"), "--k", "5"]
    assert main(args) == 0
    facts = json.loads((tmp_path / "knn.json").read_text())
    assert facts["counts"] == {"bank": 100, "queries": 20, "classes": 10}
    assert "weighted 5-NN" in facts["protocol"]
    numbers, said = facts["numbers"], capsys.readouterr().out
    assert f"knn mean patch            {numbers['knn_mean_patch']:.2%}" in said
    assert {f"knn_{t}{s}" for t in ("mean_patch", "class_token", "both") for s in ("", "_top5", "_balanced")} < set(
        numbers
    )
    kept = list((run / "evals").glob("knn-*.json"))
    assert len(kept) == 1
    assert json.loads(kept[0].read_text())["numbers"] == numbers


def test_knn_of_few_labels(run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "knn", str(run), "--data", str(scene_folder), "--tokens", "both", "--no-overlap"]
    assert main([*args, "--shots", "2", "--draws", "3", "--json", str(tmp_path / "few.json")]) == 0
    facts, said = json.loads((tmp_path / "few.json").read_text()), capsys.readouterr()
    assert facts["counts"]["bank"] == 20
    assert "2 labels a class, 3 draws" in facts["protocol"]
    assert facts["by_seed"].keys() == {"0", "1", "2"}
    assert np.mean([d["knn_both"] for d in facts["by_seed"].values()]) == pytest.approx(facts["numbers"]["knn_both"])
    assert " ± " in said.out
    assert main([*args, "--labels", "1%"]) == 0
    assert "only 10 images vote: fewer than k = 20" in capsys.readouterr().err
    few = BadInput("200 labelled training images of each class are wanted, but", options=["--shots", "200"])
    assert_refused(args, few, capsys)
    assert_refused(args, BadInput("not both", options=["--labels", "1%", "--shots", "1"]), capsys)


def test_knn_warns_of_held_out_images_that_vote(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scenes.write_folder(tmp_path / "images", 120, size=32)
    seen = sorted((folder / "train").glob("*/*.png"))[0]
    copy = folder / "val" / seen.parent.name / "again.png"
    copy.write_bytes(seen.read_bytes())
    assert main(["eval", "knn", str(run), "--data", str(folder), "--json", str(tmp_path / "k.json")]) == 0
    warning = "1 of 21 test images (4.8%) are training images too, byte for byte"
    assert warning in capsys.readouterr().err
    assert warning in json.loads((tmp_path / "k.json").read_text())["notes"][0]


def test_knn_needs_labels(run: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "knn", str(run), "--data", str(shared_data / "photos")]) == 1
    assert "training images have no labels" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ compared
def test_before_and_after(run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, file = len(list((run / "evals").glob("knn-*.json"))), tmp_path / "both.json"
    args = ["eval", "knn", str(run), "--data", str(scene_folder), "--json", str(file), "--beside", "start"]
    assert main([*args, "--seeds", "3", "--seed", "4", "--images.workers", "0"]) == 0
    random, end = read_results(file)
    assert (random.of, random.drawn, end.of, end.drawn) == (RANDOM, True, END, False)
    assert random.seeds().keys() == {4, 5, 6}
    for seed, numbers in random.seeds().items():
        expected = accuracies(Candidate(RANDOM, None).load(load_encoder(run).config, seed), scene_folder)
        assert expected.items() <= numbers.items()
    assert accuracies(load_encoder(run), scene_folder).items() <= end.numbers.items()
    assert end.by_seed == {}
    assert random.weights == f"random, like {run}"
    assert len(list((run / "evals").glob("knn-*.json"))) == kept + 2
    said = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(said) if "random initialisation" in line)
    assert said[head].split("  ")[-1].strip() == END
    assert said[head + 1].startswith("knn mean patch ")
    assert " ± " in said[head + 1]
    assert said[head + 1].endswith(" %")  # the run's end is one number
    reading = said[-1]
    assert reading.startswith(("Pretraining paid off: by knn mean patch", "Pretraining did not pay off: by knn mean"))
    assert "the spread over 3 seeds of random initialisation" in reading


def test_a_single_random_initialisation_tells_nothing(run: Path, scene_folder: Path, capsys: Any) -> None:
    assert main(["eval", "knn", str(run), "--data", str(scene_folder), "--beside", "random"]) == 0
    said = capsys.readouterr()
    assert "Whether pretraining paid off cannot be told" in said.out
    assert "from --seeds 3 on it can be told" in said.err


def test_few_labels_and_random_weights_are_drawn_together(run: Path, scene_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.json"
    args = ["eval", "knn", str(run), "--data", str(scene_folder), "--json", str(file), "--no-overlap"]
    args += ["--beside", "random", "--shots", "2", "--k", "5", "--images.workers", "0"]
    assert main([*args, "--draws", "3"]) == 0
    random, end = read_results(file)
    assert random.seeds().keys() == end.seeds().keys() == {0, 1, 2}
    assert random.drawn
    assert end.drawn
    assert random.protocol == end.protocol
    assert "2 labels a class, 3 draws" in end.protocol
    maskery.knn(
        where=run, data=scene_folder, json=tmp_path / "alone.json", k=5, shots=2, draws=1, seed=2, overlap=False
    )
    assert read_result(tmp_path / "alone.json").numbers == end.seeds()[2]
    assert main([*args, "--draws", "2", "--seeds", "4"]) == 0
    assert [len(result.seeds()) for result in read_results(file)] == [4, 4]


def test_other_weights_are_shown_what_they_were_trained_on(
    run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    to_timm(ViT(ViTConfig(48, 2, 3, 8, (16, 24), (0.5,), (0.2,))), tmp_path / "small")
    file, other = tmp_path / "both.json", str(tmp_path / "small")
    args = ["eval", "knn", str(run), "--data", str(scene_folder), "--json", str(file)]
    assert main([*args, "--beside", other]) == 0
    end, small = read_results(file)
    assert (end.of, small.of, end.shown, small.shown) == (END, other, "3 x 32 x 32", "1 x 16 x 24")
    note = f"{other} is shown 1 x 16 x 24 (channels x height x width), the run's end 3 x 32 x 32"
    assert note in small.notes
    said = capsys.readouterr()
    assert note in said.err
    assert f"points above {END}" in said.out
    assert f"one number each, nothing was drawn: too few to tell) than {other}." in said.out
    maskery.knn(where=Path(other), data=str(scene_folder), json=tmp_path / "alone.json")
    alone = read_result(tmp_path / "alone.json")
    assert (alone.numbers, alone.fingerprint) == (small.numbers, small.fingerprint)


def test_what_a_run_started_from_and_what_cannot_be_asked(
    run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = TINY | {"watch": {"looks": 0}}
    maskery.pretrain(data=scene_folder, out=tmp_path / "second", steps=2, init=str(run), **tiny)
    args = ["eval", "knn", str(tmp_path / "second"), "--data", str(scene_folder), "--no-overlap"]
    assert main([*args, "--beside", "start", "--json", str(tmp_path / "s.json")]) == 0
    start, end = read_results(tmp_path / "s.json")
    assert (start.of, start.weights, end.of) == (START, str(run), END)
    assert accuracies(load_encoder(run), scene_folder).items() <= start.numbers.items()
    for wrong, said in (
        (["--beside", str(tmp_path / "none.pth")], "none.pth: there is nothing"),
        (["--seeds", "3"], "seeds is 3: so many random initialisations, but none is compared (--beside random)"),
        (["--beside", "random", "--seeds", "0"], "seeds is 0: at least 1"),
        (["--shots", "1", "--draws", "0"], "draws is 0: at least 1"),
        (["--images.holdout", "0", "--images.split-column", "x"], "has no column 'x'"),
    ):
        assert_refused(args, BadInput(re.escape(said), options=wrong), capsys)


# ---------------------------------------------------------------------------------------------------- the quick probe
def test_the_quick_probe(run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = quick_probe(where=run, data=str(scene_folder), json=tmp_path / "q.json", tokens="class_token")
    encoder, result = load_encoder(run), read_result(tmp_path / "q.json")
    data = open_data(str(scene_folder), ImagesConfig(), (32, 32), Quiet())
    assert data.labels is not None
    bank, queries = (features(encoder, data.images, which) for which in (data.train, data.held_out))
    y, truth = (torch.from_numpy(data.labels[x.indices]) for x in (bank, queries))
    found = probe(bank.class_token, y, queries.class_token, 10)
    expected = scores(found.logits, truth)
    assert numbers == {
        "probe_class_token": expected["top1"],
        "probe_class_token_top5": expected["top5"],
        "probe_class_token_balanced": expected["balanced_accuracy"],
        "largest_class": expected["largest_class"],
    }
    assert result.numbers == numbers
    assert not result.drawn
    assert result.tables["C"]["0"]["class_token"] == found.C
    rows = result.tables["per_class"]["0"]["class_token"]
    assert [row["class"] for row in rows] == list(data.classes)
    assert sum(row["support"] for row in rows) == len(data.held_out)
    assert f"probe class token         {numbers['probe_class_token']:.2%}" in capsys.readouterr().out


def test_the_labels_of_held_out_images_decide_nothing(run: Path, tmp_path: Path) -> None:
    """Other labels of held-out images: another score, the same C and the same answers."""
    folder, other = (scenes.write_folder(tmp_path / name, 120, size=32) for name in ("a", "b"))
    held_out = sorted((other / "val").glob("*/*.png"))
    for image in held_out:
        classes = sorted(p.name for p in (other / "train").iterdir())
        place = other / "val" / classes[(classes.index(image.parent.name) + 1) % len(classes)]
        place.mkdir(exist_ok=True)
        image.rename(place / f"moved-{image.name}")
    for name, where in (("a", folder), ("b", other)):
        quick_probe(where=run, data=str(where), json=tmp_path / f"{name}.json", overlap=False)
    a, b = (read_result(tmp_path / f"{name}.json") for name in "ab")
    assert a.tables["C"] == b.tables["C"]
    assert a.numbers != b.numbers
    assert a.fingerprint != b.fingerprint


def test_the_quick_probe_compared_and_of_few_labels(
    run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "few.json"
    options = {"tokens": "mean_patch", "shots": 3, "draws": 3, "beside": ("random",), "overlap": False}
    quick_probe(where=run, data=str(scene_folder), json=file, **options)
    random, end = read_results(file)
    assert random.seeds().keys() == end.seeds().keys() == {0, 1, 2}
    assert end.counts["bank"] == 30
    assert end.tables["per_class"].keys() == end.tables["C"].keys() == {"0", "1", "2"}
    assert end.tables["C"]["0"].keys() == {"mean_patch"}
    assert "by probe mean patch, the run's end is" in capsys.readouterr().out


def test_several_labels_an_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scenes.write_folder(tmp_path / "scenes", 120, size=32)
    images = sorted(folder.glob("*/*/*.png"))
    tags = [sorted(p.parent.name.split("-")) if i % 10 else None for i, p in enumerate(images)]
    table = {
        "image": [p.read_bytes() for p in images],
        "label": pa.array(tags, pa.list_(pa.string())),
        "split": [p.parents[1].name for p in images],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    numbers = quick_probe(where=run, data=tmp_path / "t.parquet", json=tmp_path / "t.json", tokens="mean_patch")
    result = read_result(tmp_path / "t.json")
    data = open_data(str(tmp_path / "t.parquet"), ImagesConfig(), (32, 32), Quiet())
    assert data.multi_hot is not None
    has_labels = data.multi_hot[:, 0] != 255
    encoder = load_encoder(run)
    bank, queries = (features(encoder, data.images, x[has_labels[x]]) for x in (data.train, data.held_out))
    y, truth = (torch.from_numpy(data.multi_hot[x.indices].astype(np.int64)) for x in (bank, queries))
    expected, each = multilabel(probe(bank.mean_patch, y, queries.mean_patch, len(data.classes)).logits, truth)
    context = {"classes_with_images": expected["classes_with_images"]}
    assert numbers == {"probe_mean_patch_map": expected["map"]} | context
    assert result.counts["queries"] == len(queries.indices) < len(data.held_out)
    rows = result.tables["per_class"]["0"]["mean_patch"]
    assert [row["class"] for row in rows] == list(data.classes)
    assert [row["average_precision"] for row in rows] == [None if np.isnan(ap) else ap for ap in each]
    capsys.readouterr()
    assert main(["eval", "knn", str(run), "--data", str(tmp_path / "t.parquet")]) == 1
    assert "images have several labels each, and neighbours vote for one" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--labels and --shots are for one label an image"):
        quick_probe(where=run, data=tmp_path / "t.parquet", shots=1)


# ------------------------------------------------------------------------------------------------------------ the page
@pytest.mark.parametrize("page", ["evaluations.md", "probing-and-fine-tuning.md"])
def test_every_command_of_the_page_runs(
    page: str, run: Path, scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    Path("photos").symlink_to(scene_folder)
    to_timm(load_encoder(run), Path("exported"))
    short = ["--images.workers", "0", "--no-overlap", "--steps", "2", "--watch.looks", "1", "--batch-size", "16"]
    if page == "evaluations.md":  # the other page says how a classifier is made
        assert main(["eval", "finetune", "run", "--data", "photos", *short]) == 0
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line.partition("#")[0]) for line in "".join(blocks).splitlines()]
    assert len(commands) >= 5
    for words in filter(None, commands):
        trains = words[2] in ("probe", "finetune") and "--quick" not in words
        less = short if trains else ["--most", "4"] if words[2] == "robustness" else ["--images.workers", "0"]
        assert main([*words[1:], *less]) == 0, words

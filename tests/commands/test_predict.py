"""`maskery predict`: every image that can be read has a row, others are listed, and a table is whole or not there."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import maskery
from maskery.cli import main
from maskery.inference.classifier import Classifier
from tests.bad_input import BadInput, assert_refused, misused
from tests.classified import finished
from tests.tasks.images import several, two_colours


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_colours(tmp_path_factory.mktemp("colours") / "photos", {"train": 40, "val": 10})
    (folder / "val" / "blue" / "003.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("finetune", photos, tmp_path_factory.mktemp("tuned") / "run")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_image_has_a_row(
    kind: str, tuned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / f"labels.{kind}"
    command = ["predict", str(tuned), "--data", str(photos), "--out", str(out), "--images.workers", "0"]
    assert main(command) == 0
    skipped = out.with_name("labels-skipped.jsonl")
    assert f"{out}: 99 images, 2 classes; 1 could not be read: {skipped}" in capsys.readouterr().out
    assert [json.loads(line)["name"] for line in skipped.read_text().splitlines()] == ["val/blue/003.png"]
    assert {p.name for p in out.parent.iterdir()} == {out.name, skipped.name}
    rows = list(csv.DictReader(out.open())) if kind == "csv" else pq.read_table(out).to_pylist()
    assert len(rows) == 99
    assert all(row.keys() == {"name", "label", "probability"} for row in rows)
    there = {str(p.relative_to(photos)) for p in photos.rglob("*.png")} - {"val/blue/003.png"}
    assert {row["name"] for row in rows} == there
    some = rows[::9]
    for row, one in zip(some, maskery.classifier(tuned).predict([photos / r["name"] for r in some]), strict=True):
        assert row["label"] == one.label
        assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-5)


def test_several_labels(tmp_path: Path) -> None:
    images = several(tmp_path / "images")
    run = finished("finetune", images, tmp_path / "run", several=True)
    maskery.predict(where=run, data=str(images.parent), out=tmp_path / "p.csv")
    maskery.predict(where=run, data=str(images.parent), out=tmp_path / "p.parquet")
    rows, again = list(csv.DictReader((tmp_path / "p.csv").open())), pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert len(rows) == len(again) == 72
    for row, one, said in zip(
        rows, again, maskery.classifier(run).predict([images.parent / row["name"] for row in rows]), strict=True
    ):
        assert row["label"] == said.label
        assert one["label"] == list(said.labels)
        wanted = [said.probabilities[n] for n in said.labels]
        assert one["probability"] == pytest.approx(wanted, abs=1e-5)
        assert [float(p) for p in row["probability"].split("|") if p] == pytest.approx(wanted, abs=1e-4)
        assert all(p >= 0.5 for p in wanted)
    (tmp_path / "again").mkdir()
    lines = [f"{tmp_path / 'images' / r['name']},{r['label']}" for r in rows]
    (tmp_path / "again" / "list.csv").write_text("\n".join(["path,label", *lines]))
    assert maskery.inspect(str(tmp_path / "again" / "list.csv")) is None  # what it writes can be read as labels


def test_what_is_there_stays_unless_it_is_to_be_replaced(
    tuned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    command = ["predict", str(tuned), "--data", str(photos / "train"), "--out", str(out)]
    assert_refused(command, BadInput(f"{out}: exists already; --overwrite replaces it"), capsys)
    (tmp_path / "labels-skipped.jsonl").write_text("of an earlier one")
    out.unlink()
    assert_refused(command, BadInput("labels-skipped.jsonl: exists already"), capsys)
    assert main([*command, "--overwrite"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["labels.csv"]
    assert len(out.read_text().splitlines()) == 81
    wrong = [*command[:-1], str(tmp_path / "labels.txt")]
    assert_refused(wrong, misused("a file ending in .csv or .parquet is wanted"), capsys)


def test_a_table_is_whole_or_not_there(
    tuned: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0

    def interrupted(*args: object) -> object:
        nonlocal asked
        asked += 1
        if asked > 70:  # in the second batch
            raise KeyboardInterrupt
        return prediction(*args)

    prediction: Any = Classifier.prediction
    monkeypatch.setattr(Classifier, "prediction", interrupted)
    for kind in ("csv", "parquet"):
        asked = 0
        assert main(["predict", str(tuned), "--data", str(photos), "--out", str(tmp_path / f"p.{kind}")]) == 1
        assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_data_of_which_nothing_can_be_said(
    tuned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    for data, words in ((tmp_path / "broken", "cannot be read"), (tmp_path / "none", "no such file or folder")):
        args = ["predict", str(tuned), "--data", str(data), "--out", str(tmp_path / "p.csv")]
        assert_refused(args, BadInput(words), capsys)
    args = ["predict", str(photos), "--data", str(photos), "--out", str(tmp_path / "p.csv")]
    assert_refused(args, BadInput("no classifier"), capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]
    everything = ["--images.unreadable", "1", "--out", str(tmp_path / "p.csv")]
    assert main(["predict", str(tuned), "--data", str(tmp_path / "broken"), *everything]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


def test_names_that_are_no_text(tuned: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe9.png", b'a,"b".png'):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes((photos / "val/red/000.png").read_bytes())
    for kind in ("csv", "parquet"):
        maskery.predict(where=tuned, data=str(folder), out=tmp_path / f"p.{kind}")
    names = {"caf\\xe9.png", 'a,"b".png'}
    assert {row["name"] for row in csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8"))} == names
    assert set(pq.read_table(tmp_path / "p.parquet")["name"].to_pylist()) == names

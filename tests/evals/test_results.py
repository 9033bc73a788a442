import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskery.data.sources.open import open_source
from maskery.evals.results import END, Result, fingerprint, read_result, read_results, write_result, write_results

FOUND = Result("knn", {"top1": 0.5, "top5": 0.75}, "weighted 20-NN", "photos", "abc", "run", counts={"queries": 4})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    return tmp_path / "run"


def test_what_is_written_is_read(run: Path, tmp_path: Path) -> None:
    files = write_result(FOUND, run, tmp_path / "deep" / "knn.json")
    assert [f.parent for f in files] == [tmp_path / "deep", run / "evals"]
    again = read_result(files[1])
    assert (again.numbers, again.counts, again.of) == (FOUND.numbers, FOUND.counts, END)
    assert again.command
    assert again.made
    assert {"python", "maskery", "torch", "numpy"} <= again.versions.keys()
    assert replace(again, command=(), made="", versions={}, notes=()) == FOUND
    assert files[0].read_bytes() == files[1].read_bytes()


def test_files_of_a_run_are_never_overwritten(run: Path) -> None:
    for _ in range(3):
        write_result(FOUND, run)
    assert len(list((run / "evals").glob("knn-*.json"))) == 3
    assert write_result(FOUND, run / "evals") == []  # not a run, and no file asked for


def test_a_number_that_is_none_is_refused_and_the_old_file_stays(run: Path, tmp_path: Path) -> None:
    file = write_result(FOUND, None, tmp_path / "a.json")[0]
    with pytest.raises(ValueError, match="knn of run: top1 is nan, which is no result"):
        replace(FOUND, numbers={"top1": math.nan})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(replace(FOUND, tables={"recall": [math.nan]}), None, file)
    assert read_result(file).numbers == FOUND.numbers
    assert [p.name for p in tmp_path.glob("*.json")] == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", "[3]", "3", "{}", '{"top1": 0.4}', '{"evaluation": "knn"', "\0"])
def test_another_file_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: not a result of `maskery eval`"):
        read_result(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"y\.json: not a result"):
        read_result(tmp_path / "y.json")


def test_repeated_means_are_over_seeds(tmp_path: Path) -> None:
    facts = {"evaluation": "knn", "protocol": "p", "data": "d", "fingerprint": "f", "weights": "w"}
    found = Result.repeated({3: {"top1": 0.5}, 4: {"top1": 0.7}}, **facts)
    assert found.numbers == {"top1": pytest.approx(0.6)}
    back = read_result(write_result(found, None, tmp_path / "r.json")[0])
    assert back.seeds() == {3: {"top1": 0.5}, 4: {"top1": 0.7}}
    once = Result.repeated({3: {"top1": 0.5}}, **facts)
    assert (once.seeds(), once.by_seed, once.seed) == ({3: {"top1": 0.5}}, {}, 3)
    assert json.loads((tmp_path / "r.json").read_text())["by_seed"]["4"]["top1"] == 0.7


def test_results_that_belong_together_are_a_list(tmp_path: Path) -> None:
    both = [FOUND, replace(FOUND, of="random", seed=3, drawn=False, shown="3 x 32 x 32")]
    file = write_results(both, tmp_path / "deep" / "both.json")
    again = read_results(file)
    assert [(r.of, r.seed, r.drawn, r.shown, r.numbers) for r in again] == [
        (r.of, r.seed, r.drawn, r.shown, r.numbers) for r in both
    ]
    assert all(r.command and r.made and r.versions for r in again)
    with pytest.raises(ValueError, match=r"both\.json: a list of 2 results, not one"):
        read_result(file)
    assert read_results(write_result(FOUND, None, tmp_path / "one.json")[0])[0].numbers == FOUND.numbers
    assert read_result(write_results([FOUND], tmp_path / "list.json")).numbers == FOUND.numbers


def test_fingerprints_tell_images_labels_and_splits_apart(scene_folder: Path) -> None:
    source, a, b = open_source(scene_folder), np.arange(5), np.arange(5, 9)
    assert source.labels is not None
    first = fingerprint(source, a, b)
    assert fingerprint(open_source(scene_folder), a, b) == first
    assert fingerprint(source, np.arange(6), np.arange(6, 9)) != first
    assert len({first, fingerprint(source, b, a), fingerprint(source, a, b[1:]), fingerprint(source, a[::-1], b)}) == 4
    source.labels = (source.labels + 1) % len(source.classes)
    assert fingerprint(source, a, b) != first
    source.labels, source.multi_hot = None, np.zeros((len(source), len(source.classes)), np.uint8)
    tagged = fingerprint(source, a, b)
    source.multi_hot[6, 2] = 1
    assert fingerprint(source, a, b) != tagged

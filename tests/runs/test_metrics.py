import json
import math
from pathlib import Path

import numpy as np
import pytest

from maskery.runs.metrics import MAX_BUCKETS, read_metrics


def write(path: Path, rows: int) -> Path:
    with path.open("w") as f:
        for i in range(1, rows + 1):
            f.write(json.dumps({"step": i, "t": i / rows, "loss": math.sin(i), "lr": i * 1e-9}) + "\n")
            if i % (rows // 4) == 0:
                f.write(json.dumps({"step": i, "held_out_loss": 1 / i}) + "\n")
    return path


def test_a_short_run_is_read_exactly(tmp_path: Path) -> None:
    found = read_metrics(write(tmp_path / "m", 100))
    assert found["step"].tolist() == list(range(1, 101))
    assert found["loss"].tolist() == [math.sin(i) for i in range(1, 101)]
    assert np.array_equal(found.columns["loss"].low, found.columns["loss"].high)
    assert [look["step"] for look in found.looks] == [25, 50, 75, 100]
    assert (found.lines, found.steps, found.damaged) == (100, 100, 0)
    assert found.last == {"step": 100, "t": 1.0, "loss": math.sin(100), "lr": 100 * 1e-9}


@pytest.mark.parametrize("rows", [MAX_BUCKETS + 1, 5 * MAX_BUCKETS + 3149, 40_000])
def test_a_long_run_keeps_its_extremes_and_means(tmp_path: Path, rows: int) -> None:
    path = write(tmp_path / "m", rows)
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["step"] == rows // 3)
    lines[at] = json.dumps({"step": rows // 3, "t": 1 / 3, "loss": 99.0, "lr": 0.0})
    path.write_text("\n".join(lines) + "\n")
    found = read_metrics(path)
    assert found.buckets <= MAX_BUCKETS
    assert found.lines == rows
    assert found.columns["loss"].high.max() == 99
    assert found.columns["loss"].low.min() == min(math.sin(i) for i in range(1, rows + 1) if i != rows // 3)
    assert np.all(np.diff(found["step"]) > 0)
    assert found["step"][-1] == rows
    assert found.steps == rows
    assert found["lr"].mean() == pytest.approx(rows / 2 * 1e-9, rel=0.1)


def test_what_is_no_line(tmp_path: Path) -> None:
    good = json.dumps({"step": 1, "t": 0.5, "loss": 1.0}).encode()
    bad = [b"{", b"[1, 2]", b"null", b'{"loss": 2}', b"\xff\xfe", b""]
    half = b'{"step": 2, "t": 1.0, "lo'
    (tmp_path / "m").write_bytes(b"\n".join([good, *bad, good]) + b"\n" + half)
    found = read_metrics(tmp_path / "m")
    assert (found.lines, found.damaged) == (2, 6)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 1.0, "lr": None},
        {"step": 2, "loss": math.nan, "lr": "x", "n": 10**400},
        {"step": 3, "loss": 3.0},
    ]
    (tmp_path / "m").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_metrics(tmp_path / "m")
    assert np.isnan(found["lr"]).all()
    assert np.isnan(found["loss"]).tolist() == [False, True, False]
    assert found.late("loss", 0.5).tolist() == [3.0]
    assert not len(found.late("lr"))
    assert np.isnan(found["nothing"]).all()


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    found = read_metrics(tmp_path / "m")
    assert (found.lines, found.buckets, found.steps, found.looks) == (0, 0, 0, ())

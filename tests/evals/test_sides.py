"""Side by side: paired differences, honest sentences, nothing mixed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from maskery.evals.results import END, RANDOM, START, Result
from maskery.evals.sides import side_by_side

FACTS = Result("probe", {"top1": 0.5}, "quick", "photos", "abc", "run")


def results(of: str, *values: float, name: str = "top1") -> list[Result]:
    return [replace(FACTS, of=of, seed=s, numbers={name: v, "largest_class": 0.2}) for s, v in enumerate(values)]


def test_rows_and_differences() -> None:
    found = side_by_side(
        [*results(END, 0.6, 0.7, 0.8), *results("other.safetensors", 0.5), *results(RANDOM, 0.2, 0.25, 0.3)]
    )
    assert [row["label"] for row in found.rows] == [RANDOM, END, "other.safetensors"]
    row = found.rows[1]
    assert row["top1"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.1), "seeds": 3}
    assert row["above"][RANDOM]["top1"] == {"mean": pytest.approx(0.45), "std": pytest.approx(0.05), "seeds": 3}
    assert "largest_class" not in row
    assert found.rows[0]["above"] == {}
    said = found.lines()
    assert "70.0 ± 10.0" in said[2]
    assert "50.0 %" in said[3]
    assert any(line.startswith(END) and "+45.0 ± 5.0" in line for line in said)


def test_it_paid_off() -> None:
    said = side_by_side([*results(RANDOM, 0.2, 0.25, 0.3), *results(END, 0.6, 0.7, 0.8)]).reading
    assert said == (
        "Pretraining paid off: by top1, the run's end is 45.0 ± 5.0 points better (more than the spread over 3 seeds "
        "explains) than random initialisation.",
    )


def test_it_did_not_pay_off() -> None:
    worse = side_by_side([*results(RANDOM, 0.6, 0.7, 0.8), *results(END, 0.2, 0.25, 0.3)]).reading[0]
    assert worse.startswith("Pretraining did not pay off: by top1, the run's end is 45.0 ± 5.0 points worse (more than")
    within = side_by_side([*results(RANDOM, 0.5, 0.6, 0.7), *results(END, 0.6, 0.5, 0.9)]).reading[0]
    assert within.startswith("Pretraining did not pay off: by top1, the run's end is 6.7 ± 15.3 points better (within")
    same = side_by_side([*results(RANDOM, 0.5, 0.6, 0.7), *results(END, 0.5, 0.6, 0.7)]).reading[0]
    assert (
        same
        == "Pretraining did not pay off: by top1, the run's end is exactly as good (3 seeds) as random initialisation."
    )


def test_too_few_seeds_to_tell() -> None:
    one = side_by_side([*results(RANDOM, 0.5), *results(END, 0.9)]).reading[0]
    assert one.startswith(
        "Whether pretraining paid off cannot be told: by top1, the run's end is 40.0 points better (1 seed: too few"
    )
    none = side_by_side([*results(RANDOM, 0.5), replace(FACTS, seed=7)]).reading[0]
    assert "cannot be told" in none
    assert "no seed that both have" in none


def test_a_run_that_started_from_weights_is_measured_by_them() -> None:
    found = side_by_side(
        [*results(END, 0.70, 0.71, 0.72), *results(RANDOM, 0.2, 0.3, 0.1), *results(START, 0.71, 0.70, 0.73)]
    )
    assert [row["label"] for row in found.rows] == [RANDOM, START, END]
    assert found.rows[2]["above"].keys() == {RANDOM, START}
    assert found.rows[1]["above"].keys() == {RANDOM}
    assert found.reading[0].startswith("Pretraining did not pay off: by top1, the run's end is")
    assert found.reading[0].endswith("than what the run started from.")
    assert "51.0 ± 10.5 points better" in found.reading[1]
    assert found.reading[1].endswith("than random initialisation.")


def test_other_weights_that_are_better_are_named() -> None:
    said = side_by_side(
        [*results(RANDOM, 0.1, 0.2, 0.3), *results(END, 0.5, 0.6, 0.7), *results("vit_base.augreg", 0.80, 0.90, 0.99)]
    ).reading[1]
    assert "points worse (more than the spread over 3 seeds explains) than vit_base.augreg, so it is no better." in said


def test_of_errors_less_is_better() -> None:
    found = side_by_side([*results(RANDOM, 0.9, 0.8, 0.85, name="mce"), *results(END, 0.5, 0.4, 0.45, name="mce")])
    assert found.reading[0].startswith("Pretraining paid off: by mce, the run's end is 40.0 ± 0.0 points better")
    assert found.rows[1]["above"][RANDOM]["mce"]["mean"] == pytest.approx(-0.4)  # the table does not turn signs


def test_repeated_results_count_each_seed() -> None:
    facts = {"evaluation": "probe", "protocol": "quick", "data": "photos", "fingerprint": "abc", "weights": "run"}
    both = [
        Result.repeated({s: {"top1": v + 0.1 * s} for s in range(3)}, of=of, **facts)
        for of, v in ((RANDOM, 0.1), (END, 0.4))
    ]
    assert side_by_side(both).rows[1]["above"][RANDOM]["top1"]["seeds"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "xyz"}, "their images or labels differ: 'abc'"),
        ({"protocol": "MAE's"}, "their protocol differ: 'quick'"),
        ({"evaluation": "knn"}, "their evaluation differ: 'probe'"),
    ],
)
def test_nothing_is_mixed(change: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        side_by_side([FACTS, replace(FACTS, of=RANDOM, **change)])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="two results of the run's end with seed 0"):
        side_by_side([FACTS, FACTS])
    with pytest.raises(ValueError, match="no results"):
        side_by_side([])
    with pytest.raises(ValueError, match="no number 'map' in these results; there are: top1"):
        side_by_side([FACTS], "map")
    assert side_by_side([FACTS]).reading == ()


def test_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluations.md").read_text()
    code, shown = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for kind in ("python", "text")
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code[0], "evaluations.md", "exec"), {})
    assert capsys.readouterr().out == shown[0]

import re
from dataclasses import replace
from pathlib import Path

import pytest

from maskery.evals.comparison import compare_results
from maskery.evals.results import END, RANDOM, START, Result

FACTS = Result("probe", {"top1": 0.5}, "quick", "photos", "abc", "run")


def results(of: str, *values: float, name: str = "top1") -> list[Result]:
    return [replace(FACTS, of=of, seed=s, numbers={name: v, "largest_class": 0.2}) for s, v in enumerate(values)]


def test_rows_and_differences() -> None:
    comparison = compare_results(
        [*results(END, 0.6, 0.7, 0.8), *results("other.safetensors", 0.5), *results(RANDOM, 0.2, 0.25, 0.3)]
    )
    assert [row.label for row in comparison.rows] == [RANDOM, END, "other.safetensors"]
    row = comparison.rows[1]
    assert row.numbers["top1"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.1), "seeds": 3}
    assert row.above[RANDOM]["top1"] == {"mean": pytest.approx(0.45), "std": pytest.approx(0.05), "seeds": 3}
    assert "largest_class" not in row.numbers
    assert comparison.rows[0].above == {}
    assert comparison.lines()[:5] == [
        "        random initialisation   the run's end  other.safetensors",
        "top1               25.0 ± 5.0     70.0 ± 10.0             50.0 %",
        "",
        "points above random initialisation",
        "top1                              +45.0 ± 5.0              +30.0",
    ]


def test_it_paid_off() -> None:
    conclusions = compare_results([*results(RANDOM, 0.2, 0.25, 0.3), *results(END, 0.6, 0.7, 0.8)]).reading
    assert conclusions == (
        "Pretraining paid off: by top1, the run's end is 45.0 ± 5.0 points better (more than the spread over 3 seeds "
        "explains) than random initialisation.",
    )


def test_it_did_not_pay_off() -> None:
    for before, after, verdict, words in (
        ((0.6, 0.7, 0.8), (0.2, 0.25, 0.3), "Pretraining did not pay off", "45.0 ± 5.0 points worse (more than"),
        ((0.6, 0.5, 0.9), (0.5, 0.6, 0.7), "Pretraining did not pay off", "6.7 ± 15.3 points worse (within"),
        ((0.5, 0.6, 0.7), (0.6, 0.5, 0.9), "That pretraining paid off is not shown", "6.7 ± 15.3 points better"),
        ((0.5, 0.6), (0.5, 0.6), "Whether pretraining paid off cannot be told", "exactly as good (2 seeds) as random"),
        ((0.5, 0.6, 0.7), (0.5, 0.6, 0.7), "Pretraining did not pay off", "exactly as good (3 seeds) as random"),
    ):
        conclusion = compare_results([*results(RANDOM, *before), *results(END, *after)]).reading[0]
        assert conclusion.startswith(f"{verdict}: by top1, the run's end is {words}")


def test_too_few_seeds_to_tell() -> None:
    one = compare_results([*results(RANDOM, 0.5), *results(END, 0.9)]).reading[0]
    assert one.startswith(
        "Whether pretraining paid off cannot be told: by top1, the run's end is 40.0 points better (1 seed: too few"
    )
    none = compare_results([*results(RANDOM, 0.5), replace(FACTS, seed=7)]).reading[0]
    assert "cannot be told" in none
    assert "no seed in common" in none


def test_a_run_that_started_from_weights_is_measured_by_them() -> None:
    comparison = compare_results(
        [*results(END, 0.70, 0.71, 0.72), *results(RANDOM, 0.2, 0.25, 0.15), *results(START, 0.71, 0.70, 0.73)]
    )
    assert [row.label for row in comparison.rows] == [RANDOM, START, END]
    assert comparison.rows[2].above.keys() == {RANDOM, START}
    assert comparison.rows[1].above.keys() == {RANDOM}
    assert comparison.reading[0].startswith("Pretraining did not pay off: by top1, the run's end is")
    assert comparison.reading[0].endswith("than what the run started from.")
    assert "51.0 ± 5.6 points better" in comparison.reading[1]
    assert comparison.reading[1].endswith("than random initialisation.")


def test_other_weights_that_are_better_are_named() -> None:
    conclusions = compare_results(
        [*results(RANDOM, 0.1, 0.2, 0.3), *results(END, 0.5, 0.6, 0.7), *results("vit_base.augreg", 0.80, 0.90, 0.99)]
    ).reading[1]
    words = "points worse (more than the spread over 3 seeds explains) than vit_base.augreg, so it is no better."
    assert words in conclusions


def test_of_errors_less_is_better() -> None:
    before, after = results(RANDOM, 0.9, 0.8, 0.85, name="mce"), results(END, 0.5, 0.4, 0.45, name="mce")
    comparison = compare_results([*before, *after])
    expected = "Pretraining paid off: by mce, the run's end is 40.0 ± 0.0 points better"
    assert comparison.reading[0].startswith(expected)
    assert comparison.rows[1].above[RANDOM]["mce"]["mean"] == pytest.approx(-0.4)  # the table does not turn signs


def test_repeated_results_count_each_seed() -> None:
    facts = {"evaluation": "probe", "protocol": "quick", "data": "photos", "fingerprint": "abc", "weights": "run"}
    both = [
        Result.repeated({s: {"top1": v + 0.1 * s} for s in range(3)}, of=of, **facts)
        for of, v in ((RANDOM, 0.1), (END, 0.4))
    ]
    assert compare_results(both).rows[1].above[RANDOM]["top1"]["seeds"] == 3


def fixed(of: str, value: float) -> Result:
    return replace(FACTS, of=of, numbers={"top1": value}, drawn=False)


def test_a_number_without_seeds_stands_beside_every_seed() -> None:
    comparison = compare_results([fixed(END, 0.8), *results(RANDOM, 0.20, 0.25, 0.30)])
    assert comparison.rows[1].numbers["top1"] == {"mean": 0.8, "std": None, "seeds": 1}
    assert comparison.rows[1].above[RANDOM]["top1"] == {
        "mean": pytest.approx(0.55),
        "std": pytest.approx(0.05),
        "seeds": 3,
    }
    assert comparison.reading == (
        "Pretraining paid off: by top1, the run's end is 55.0 ± 5.0 points better (more than the spread over 3 seeds "
        "of random initialisation explains) than random initialisation.",
    )
    turned = compare_results([fixed(RANDOM, 0.1), *results(END, 0.7, 0.8, 0.9)])
    assert turned.rows[1].above[RANDOM]["top1"]["seeds"] == 3
    assert "3 seeds of the run's end explains" in turned.reading[0]


def test_between_two_numbers_without_seeds_there_is_no_spread() -> None:
    comparison = compare_results([fixed(START, 0.5), fixed(END, 0.6), *results(RANDOM, 0.1, 0.11, 0.12)])
    assert comparison.rows[2].above[START]["top1"] == {"mean": pytest.approx(0.1), "std": None, "seeds": 1}
    assert comparison.reading[0] == (
        "Whether pretraining paid off cannot be told: by top1, the run's end is 10.0 points better (one number each, "
        "nothing was drawn: too few to tell) than what the run started from."
    )
    assert "49.0 ± 1.0 points better (more than the spread over 3 seeds of random" in comparison.reading[1]


def test_the_runs_one_end_has_to_exceed_one_more_random_initialisation() -> None:
    """At 3 seeds: 4.303 * sqrt(1 + 1/3) = 4.97 standard deviations, where their mean's own error would give 2.48."""
    for end, told in ((0.25 + 0.05 * 4.9, False), (0.25 + 0.05 * 5.1, True), (0.25 - 0.05 * 4.9, False)):
        conclusions = compare_results([fixed(END, end), *results(RANDOM, 0.20, 0.25, 0.30)]).reading[0]
        verdict = "paid off: " if told else "paid off is not shown: " if end > 0.25 else "did not pay off: "
        assert verdict in conclusions, end


def test_that_holds_too_where_labels_are_drawn_and_not_for_weights_that_are_fixed() -> None:
    """A difference of four standard deviations at 3 seeds."""
    before, after = (0.20, 0.25, 0.30), (0.35, 0.45, 0.55)
    random = compare_results([*results(RANDOM, *before), *results(END, *after)]).reading[0]
    assert random.startswith("That pretraining paid off is not shown: by top1, the run's end is 20.0 ± 5.0 points")
    start = compare_results([*results(START, *before), *results(END, *after)]).reading[0]
    assert start.startswith("Pretraining paid off: by top1, the run's end is 20.0 ± 5.0 points better")


def test_differences_are_to_the_first_where_nothing_came_before() -> None:
    comparison = compare_results([*results("a.pth", 0.5, 0.6), *results("b.pth", 0.7, 0.9)])
    assert [row.above.keys() for row in comparison.rows] == [set(), {"a.pth"}]
    assert comparison.rows[1].above["a.pth"]["top1"]["mean"] == pytest.approx(0.25)
    assert comparison.reading == compare_results([FACTS]).reading == ()


@pytest.mark.parametrize(
    ("given", "measure", "words"),
    [
        ([FACTS, FACTS], None, "two results of the run's end with seed 0"),
        ([fixed(END, 0.5), fixed(END, 0.5)], None, "two results of the run's end: run"),
        ([fixed(END, 0.5), FACTS], None, "results of the run's end both with seeds and without: run"),
        ([FACTS, fixed(END, 0.5)], None, "results of the run's end both with seeds and without: run"),
        ([], None, "no results"),
        ([FACTS], "map", "no number 'map' in these results; there are: top1"),
        ([FACTS, replace(FACTS, of=RANDOM, fingerprint="xyz")], None, "their images or labels differ: 'abc'"),
        ([FACTS, replace(FACTS, of=RANDOM, protocol="MAE's")], None, "their protocol differ: 'quick'"),
        ([FACTS, replace(FACTS, of=RANDOM, evaluation="knn")], None, "their evaluation differ: 'probe'"),
    ],
)
def test_what_cannot_be_compared(given: list[Result], measure: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare_results(given, measure)


def test_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluations.md").read_text()
    code, shown = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) for kind in ("python", "text")
    )
    monkeypatch.chdir(tmp_path)
    own = next(block for block in code if "compare_results" in block)
    exec(compile(own, "evaluations.md", "exec"), {})
    assert capsys.readouterr().out == shown[0]

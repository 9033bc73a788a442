"""Rows and verdicts of a comparison, against numbers worked out by hand."""

import pytest

from maskery.evals.paired import exceeds, lines, paired, points, reading, rows

START = "random initialisation"


def numbers(*values: float, **more: float) -> dict[int, dict[str, float]]:
    """Seed -> one run's numbers."""
    return {seed: {"knn_mean_patch": v, "linear_mean_patch": v / 2} | more for seed, v in enumerate(values)}


RESULTS = {
    START: numbers(0.10, 0.12, 0.11),
    "mae": numbers(0.30, 0.40, 0.50, epochs=4.0, training_seconds=120.0, images_per_second=50.0),
    "rc-mae": numbers(0.33, 0.42, 0.54, epochs=3.0, training_seconds=120.0, images_per_second=37.5),
}


def test_rows_hold_mean_and_standard_deviation() -> None:
    table = {row["label"]: row for row in rows(START, RESULTS)}
    assert list(table) == [START, "mae", "rc-mae"]
    assert table["mae"]["knn_mean_patch"] == {"mean": pytest.approx(0.4), "std": pytest.approx(0.1), "seeds": 3}
    assert table["rc-mae"]["epochs"]["mean"] == 3.0
    assert "epochs" not in table[START]
    assert "above_start" not in table[START]
    assert "above_first" not in table["mae"]
    assert table["mae"]["above_start"]["knn_mean_patch"]["mean"] == pytest.approx(0.29)


def test_differences_are_of_the_same_seed() -> None:
    """+3, +2, +4 points: mean 3, deviation 1, although the methods themselves spread by 10."""
    difference = paired(RESULTS["rc-mae"], RESULTS["mae"], "knn_mean_patch")
    assert difference == {"mean": pytest.approx(0.03), "std": pytest.approx(0.01), "seeds": 3}
    one_less = {seed: run for seed, run in RESULTS["mae"].items() if seed != 1}
    assert paired(RESULTS["rc-mae"], one_less, "knn_mean_patch")["mean"] == pytest.approx(0.035)
    assert paired(RESULTS["rc-mae"], {}, "knn_mean_patch") == {}


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    """The standard error of 3 seeds with deviation 1 is 0.577, and t at 2 degrees of freedom 4.303."""
    assert exceeds({"mean": 2.49, "std": 1.0, "seeds": 3}) is True
    assert exceeds({"mean": -2.49, "std": 1.0, "seeds": 3}) is True
    assert exceeds({"mean": 2.48, "std": 1.0, "seeds": 3}) is False
    assert exceeds({"mean": 0.72, "std": 1.0, "seeds": 10}) is True
    assert exceeds({"mean": 0.71, "std": 1.0, "seeds": 10}) is False
    assert exceeds({"mean": 0.71, "std": 1.0, "seeds": 11}) is True
    assert exceeds({"mean": 0.0, "std": 0.0, "seeds": 3}) is False
    assert exceeds({"mean": 9.0, "std": 0.1, "seeds": 2}) is None


def test_the_reading_says_who_is_first_and_whether_that_means_something() -> None:
    said = reading(START, RESULTS)
    assert said[0] == (
        "By kNN, mean patch token, rc-mae comes first with 43.0 %, +3.0 ± 1.0 points against mae: more than the spread "
        "over 3 seeds explains. Against random initialisation: +32.0 ± 10.1 points, more than the spread over 3 "
        "seeds explains."
    )
    assert said[1] == (
        "First by the other measures: linear probe, mean patch token: rc-mae (more than the spread over 3 seeds "
        "explains)."
    )
    close = RESULTS | {"rc-mae": numbers(0.33, 0.38, 0.53)}
    assert "within the spread over 3 seeds: not told apart" in reading(START, close)[0]
    two = {label: {s: run for s, run in runs.items() if s < 2} for label, runs in RESULTS.items()}
    assert "2 seeds are too few to tell" in reading(START, two)[0]
    worse = {START: numbers(0.9, 0.8, 0.7)} | {"mae": RESULTS["mae"]}
    assert reading(START, worse)[0].endswith("So no method is better than random initialisation.")


def test_a_seed_that_only_some_methods_have_ranks_nobody() -> None:
    """mae's third seed is far better; by the two that both have, rc-mae is first."""
    some = {START: RESULTS[START], "mae": numbers(0.3, 0.4, 0.99), "rc-mae": numbers(0.33, 0.42)}
    assert reading(START, some)[0].startswith("By kNN, mean patch token, rc-mae comes first with 37.5 %")


def test_nothing_measured_is_no_reading() -> None:
    assert reading(START, {START: {}, "mae": {0: {"epochs": 1.0}}}) == []


def test_the_lines_for_a_console_stand_in_columns() -> None:
    said = lines(START, rows(START, RESULTS))
    assert len({len(line) for line in said[:4]}) == 1
    assert said[0].split() == ["epochs", "training", "images/s", "kNN", "patch", "linear", "patch"]
    assert said[2].split() == ["mae", "4.0", "2", "min", "50", "40.0", "±", "10.0", "20.0", "±", "5.0"]
    assert "points above mae, seed by seed" in said
    assert said[-1].split() == ["rc-mae", "+3.0", "±", "1.0", "+1.5", "±", "0.5"]


def test_points() -> None:
    assert points({"mean": -0.0001, "std": None, "seeds": 1}) == "+0.0"
    assert points({"mean": -0.0123, "std": 0.004, "seeds": 3}) == "-1.2 ± 0.4"
    assert points({}) == "-"

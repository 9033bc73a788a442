import pytest

from maskery.evals.leaderboard import lines, reading, table

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
    by_label = {row["label"]: row for row in table(START, RESULTS)}
    assert list(by_label) == [START, "mae", "rc-mae"]
    assert by_label["mae"]["knn_mean_patch"] == {"mean": pytest.approx(0.4), "std": pytest.approx(0.1), "seeds": 3}
    assert by_label["rc-mae"]["epochs"]["mean"] == 3.0
    assert "epochs" not in by_label[START]
    assert "above_start" not in by_label[START]
    assert "above_first" not in by_label["mae"]
    assert by_label["mae"]["above_start"]["knn_mean_patch"]["mean"] == pytest.approx(0.29)


def test_conclusions_say_which_is_first_and_whether_that_means_something() -> None:
    text = reading(START, RESULTS)
    assert text[0] == (
        "By kNN, mean patch token, rc-mae comes first with 43.0 %, +3.0 ± 1.0 points against mae: more than the spread "
        "over 3 seeds explains. Against random initialisation: +32.0 ± 10.1 points, more than the spread over 3 "
        "seeds explains."
    )
    assert text[1] == (
        "First by the other measures: linear probe, mean patch token: rc-mae (more than the spread over 3 seeds "
        "explains)."
    )
    close = RESULTS | {"rc-mae": numbers(0.33, 0.38, 0.53)}
    assert "within the spread over 3 seeds: not told apart" in reading(START, close)[0]
    two = {label: {s: run for s, run in runs.items() if s < 2} for label, runs in RESULTS.items()}
    assert "2 seeds are too few to tell" in reading(START, two)[0]
    worse = {START: numbers(0.9, 0.8, 0.7)} | {"mae": RESULTS["mae"]}
    assert reading(START, worse)[0].endswith("So no method is better than random initialisation.")


def test_a_seed_that_only_some_methods_have_ranks_no_method() -> None:
    """mae's third seed is far better; by the two that both have, rc-mae is first."""
    some = {START: RESULTS[START], "mae": numbers(0.3, 0.4, 0.99), "rc-mae": numbers(0.33, 0.42)}
    assert reading(START, some)[0].startswith("By kNN, mean patch token, rc-mae comes first with 37.5 %")


def test_nothing_measured_is_no_conclusion() -> None:
    assert reading(START, {START: {}, "mae": {0: {"epochs": 1.0}}}) == []


def test_the_lines_for_a_console_stand_in_columns() -> None:
    text = lines(START, table(START, RESULTS))
    assert len({len(line) for line in text[:4]}) == 1
    assert text[0].split() == ["epochs", "training", "images/s", "kNN", "patch", "linear", "patch"]
    assert text[2].split() == ["mae", "4.0", "2", "min", "50", "40.0", "±", "10.0", "20.0", "±", "5.0"]
    assert "points above mae, seed by seed" in text
    assert text[-1].split() == ["rc-mae", "+3.0", "±", "1.0", "+1.5", "±", "0.5"]

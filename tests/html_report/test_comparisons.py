"""Evaluations become tables: one for those that belong together, with the newest of equal ones."""

from maskery.evals.results import END, RANDOM, Result
from maskery.html_report.comparisons import before_and_after_table, compare_table, tables


def result(of: str, top1: float, seed: int = 0, **more: str) -> Result:
    facts = {"evaluation": "probe", "protocol": "p", "data": "d", "fingerprint": "f", "weights": of} | more
    return Result(numbers={"top1": top1}, of=of, seed=seed, **facts)  # pyright: ignore


def test_candidates_are_columns() -> None:
    results = [result(RANDOM, 0.2 + s / 100, s) for s in range(3)] + [result(END, 0.5 + s / 100, s) for s in range(3)]
    (table,) = tables(results)
    assert table.title == "Linear probe"
    assert table.heads == ("", RANDOM, END, f"above {RANDOM}")
    assert table.rows == (("top1", "21.0 ± 1.0", "51.0 ± 1.0", "+30.0 ± 0.0"),)
    assert table.reading[0].startswith("Pretraining paid off")


def test_other_data_is_another_table_and_the_newest_counts() -> None:
    one, two = tables([result(END, 0.1), result(END, 0.3), result(END, 0.7, fingerprint="g")])
    assert one.rows[0][1] == "30.0 %"
    assert two.rows[0][1] == "70.0 %"


def test_verdicts_come_first() -> None:
    made = tables([result(END, 0.1, evaluation="knn"), result(RANDOM, 0.1), result(END, 0.3)])
    assert [table.title for table in made] == ["Linear probe", "Nearest neighbours"]


def test_the_runs_own_evaluations_and_what_compare_measured() -> None:
    facts = {"step": 9, "loss": {"before": 2.0, "after": 1.0}, "command": ["x"]}
    table = before_and_after_table(facts)
    assert table
    assert table.rows == (("loss", "2", "1"),)
    assert before_and_after_table({}) is None
    table = compare_table({"knn_mean_patch": 0.25, "steps": 3})
    assert table
    assert table.rows == (("knn mean patch", "25.0 %"),)
    assert compare_table({"steps": 3}) is None

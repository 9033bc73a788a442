import json
import re

import numpy as np
import pytest

from maskery.html.charts import EDGE, POINTS, Curve, Scale, chart, thinned


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float)


def test_more_is_higher_and_later_is_further_right() -> None:
    made = chart("c", [Curve("a", np.array([0.0, 5, 10]), np.array([1.0, 3, 2]))], guides=[("g", 2.0)])
    assert made
    xs, ys = points(made.lines[0].path).T
    assert xs.tolist() == [EDGE, 500, 1000 - EDGE]
    assert ys[1] < ys[2] < ys[0]
    assert made.guides[0][1] == pytest.approx(ys[2], abs=0.1)
    for height, words in made.y_ticks:
        assert height == pytest.approx(np.interp(float(words), [1, 3], [ys[0], ys[1]]), abs=0.2)
    assert "a from 1 to 2" in made.alt


def test_no_curve_no_chart() -> None:
    assert chart("c", []) is None
    assert chart("c", [Curve("a", np.array([1.0]), np.array([1.0]))]) is None
    assert chart("c", [Curve("a", np.array([1.0, 2.0]), np.array([np.nan, np.nan]))]) is None


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-20, 1e12])
def test_a_constant_is_a_line(value: float, log: bool) -> None:
    made = chart("c", [Curve("a", np.array([1.0, 2.0]), np.full(2, value))], Scale(log=log, zero=True))
    assert made
    assert 0 <= points(made.lines[0].path)[:, 1].min() <= 1000
    assert made.y_ticks


def test_a_spike_among_many_is_in_the_band() -> None:
    y = np.zeros(100_000)
    y[31_415] = 7
    thin = thinned(Curve("a", np.arange(100_000.0), y))
    assert len(thin.x) == POINTS
    assert thin.high is not None
    assert thin.high.max() == 7
    assert thin.x[-1] == 99_999
    made = chart("c", [Curve("a", np.arange(100_000.0), y)])
    assert made
    assert made.lines[0].band
    assert len(made.values) < 30_000


def test_what_stands_under_the_pointer() -> None:
    training = Curve("training", np.arange(1.0, 9), np.arange(8) / 10)
    looks = Curve("looks", np.array([4.0, 8.0]), np.array([0.5, 0.25]), dots=True)
    made = chart("c", [training, looks], Scale(percent=True))
    assert made
    values = json.loads(made.values)
    assert values["x"] == [str(i) for i in range(1, 9)]
    assert values["lines"][0]["y"] == ["0 %", "10 %", "20 %", "30 %", "40 %", "50 %", "60 %", "70 %"]
    assert values["lines"][1]["y"] == [None, None, None, "50 %", "50 %", "50 %", "50 %", "25 %"]

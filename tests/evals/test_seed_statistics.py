import pytest

from maskery.evals.seed_statistics import is_significant, paired_difference, percent, points

MAE = {0: {"top1": 0.30}, 1: {"top1": 0.40}, 2: {"top1": 0.50}}
RC_MAE = {0: {"top1": 0.33}, 1: {"top1": 0.42}, 2: {"top1": 0.54}}


def test_differences_are_of_the_same_seed() -> None:
    """+3, +2, +4 points: mean 3, deviation 1, although the methods themselves spread by 10."""
    difference = paired_difference(RC_MAE, MAE, "top1")
    assert difference == {"mean": pytest.approx(0.03), "std": pytest.approx(0.01), "seeds": 3}
    one_less = {seed: run for seed, run in MAE.items() if seed != 1}
    assert paired_difference(RC_MAE, one_less, "top1")["mean"] == pytest.approx(0.035)
    assert paired_difference(RC_MAE, {}, "top1") is None


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    """The standard error of 3 seeds with deviation 1 is 0.577, and t at 2 degrees of freedom 4.303."""
    assert is_significant({"mean": 2.49, "std": 1.0, "seeds": 3}) is True
    assert is_significant({"mean": -2.49, "std": 1.0, "seeds": 3}) is True
    assert is_significant({"mean": 2.48, "std": 1.0, "seeds": 3}) is False
    assert is_significant({"mean": 0.72, "std": 1.0, "seeds": 10}) is True
    assert is_significant({"mean": 0.71, "std": 1.0, "seeds": 10}) is False
    assert is_significant({"mean": 0.71, "std": 1.0, "seeds": 11}) is True
    assert is_significant({"mean": 0.0, "std": 0.0, "seeds": 3}) is False
    assert is_significant({"mean": 9.0, "std": 0.1, "seeds": 2}) is None


def test_a_number_that_depends_on_no_seed_is_paired_with_every_seed() -> None:
    fixed = {None: {"top1": 0.2}}
    assert paired_difference(MAE, fixed, "top1") == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1), "seeds": 3}
    assert paired_difference(fixed, fixed, "top1") == {"mean": 0.0, "std": None, "seeds": 1}


def test_points() -> None:
    assert points({"mean": -0.0001, "std": None, "seeds": 1}) == "+0.0"
    assert points({"mean": -0.0123, "std": 0.004, "seeds": 3}) == "-1.2 ± 0.4"
    assert points(None) == percent(None) == "-"
    assert percent({"mean": 0.4, "std": 0.1, "seeds": 3}) == "40.0 ± 10.0"
    assert percent({"mean": 0.4, "std": None, "seeds": 1}) == "40.0 %"

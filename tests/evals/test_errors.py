"""mCE, relative mCE and raw means, by hand and against published numbers."""

import pytest

from maskery.evals.corruptions import BENCHMARK, EXTRA, SEVERITIES
from maskery.evals.errors import ALEXNET, ALEXNET_CLEAN, Errors, lines


def flat(errors: dict[str, float]) -> dict[str, dict[int, float]]:
    return {name: dict.fromkeys(SEVERITIES, value) for name, value in errors.items()}


def test_alexnet_itself_is_one() -> None:
    found = Errors(ALEXNET_CLEAN, flat(ALEXNET), 10)
    assert found.mce == pytest.approx(1.0)
    assert found.relative_mce == pytest.approx(1.0)
    assert found.mean(BENCHMARK) == pytest.approx(sum(ALEXNET.values()) / 15)


def test_alexnets_constants_are_means_over_severities() -> None:
    """By severity, as some evaluation code lists them."""
    listed = (
        (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
        (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
        (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
        (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
        (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
        (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
        (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
        (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
        (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
        (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
        (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
        (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    )
    assert list(ALEXNET) == list(BENCHMARK)
    for name, errors in zip(BENCHMARK, listed, strict=True):
        assert ALEXNET[name] == pytest.approx(sum(errors) / 5, abs=1e-9), name


def test_resnet_50s_row_gives_its_published_numbers() -> None:
    """Table 1 of the paper: clean error 23.9, mCE 76.7, relative mCE 105.0; each corruption in whole percents."""
    row = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)
    found = Errors(0.239, flat({n: c / 100 * ALEXNET[n] for n, c in zip(BENCHMARK, row, strict=True)}), 50_000)
    assert found.mce == pytest.approx(0.767, abs=0.005)
    assert found.relative_mce == pytest.approx(1.05, abs=0.01)


def test_each_number_is_named_as_what_it_is_and_extras_are_in_none_of_the_others() -> None:
    by = flat(dict.fromkeys(BENCHMARK, 0.5)) | flat(dict.fromkeys(EXTRA, 0.9))
    numbers = Errors(0.2, by, 10).numbers()
    assert numbers["mean_error"] == pytest.approx(0.5)
    assert numbers["mean_error_extra"] == pytest.approx(0.9)
    assert numbers["mce"] == pytest.approx(sum(0.5 / a for a in ALEXNET.values()) / 15)
    assert numbers["clean_error"] == 0.2
    assert numbers["error_fog"] == 0.5
    said = "\n".join(lines(Errors(0.2, by, 10)))
    assert "mean error over the 15 corruptions and 5 severities, as it is" in said
    assert "relative to AlexNet's error on ImageNet-C" in said
    assert said.count("(extra)") == 4


def test_what_is_missing_makes_no_number() -> None:
    by = flat(dict.fromkeys(BENCHMARK, 0.5))
    del by["fog"][3]
    found = Errors(None, by, 10)
    assert found.mce is None
    assert found.relative_mce is None
    assert set(found.numbers()) == {f"error_{n}" for n in BENCHMARK if n != "fog"}
    assert "       -" in next(line for line in lines(found) if line.startswith("fog"))

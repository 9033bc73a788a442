import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.evals.label_subset import LabelSubset, parse_fraction

CLASSES = ("apple", "pear", "plum")
LABELS = np.array([0] * 40 + [1] * 30 + [2] * 30 + [-1] * 20)
EVERY = np.arange(len(LABELS))


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), (" 12.5 %", 0.125), ("0.01", 0.01), ("1", 1.0), ("100%", 1)])
def test_fractions(text: str, value: float) -> None:
    assert parse_fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["0%", "5", "-1%", "101%", "few", "", "1.5"])
def test_what_is_no_fraction(text: str) -> None:
    with pytest.raises(ValueError, match="a percentage like 1%"):
        parse_fraction(text)


def test_either_labels_or_shots() -> None:
    assert LabelSubset.parse(None, None) is None
    with pytest.raises(ValueError, match="not both"):
        LabelSubset.parse("1%", 5)
    with pytest.raises(ValueError, match="shots is 0"):
        LabelSubset.parse(None, 0)


def test_shots_are_of_each_class_and_other_seeds_draw_others() -> None:
    first, second = (LabelSubset(shots=5).draw(LABELS, EVERY, CLASSES, seed)[0] for seed in (0, 1))
    assert np.bincount(LABELS[first]).tolist() == [5, 5, 5]
    assert np.array_equal(first, np.unique(first))
    assert set(first) != set(second)
    assert np.array_equal(first, LabelSubset(shots=5).draw(LABELS, EVERY, CLASSES, 0)[0])


@given(st.integers(0, 5), st.sampled_from([(1, 5), (5, 30), (2, 3)]))
def test_draws_of_a_seed_are_nested(seed: int, shots: tuple[int, int]) -> None:
    less, more = (set(LabelSubset(shots=k).draw(LABELS, EVERY, CLASSES, seed)[0].tolist()) for k in shots)
    assert less < more
    less, more = (set(LabelSubset(fraction=k / 40).draw(LABELS, EVERY, CLASSES, seed)[0].tolist()) for k in shots)
    assert less < more


def test_only_labelled_images_of_those_given() -> None:
    given_ = np.arange(10, 90)
    drawn, notes = LabelSubset(fraction=1.0).draw(LABELS, given_, CLASSES, 3)
    assert np.array_equal(drawn, given_)
    assert notes == []


def test_a_fraction_keeps_proportions() -> None:
    assert np.bincount(LABELS[LabelSubset(fraction=0.1).draw(LABELS, EVERY, CLASSES, 0)[0]]).tolist() == [4, 3, 3]


def test_long_tails_are_said() -> None:
    labels = np.array([0] * 500 + [1] * 40 + [2] * 3)
    drawn, notes = LabelSubset(fraction=0.01).draw(labels, np.arange(len(labels)), CLASSES, 0)
    assert np.bincount(labels[drawn]).tolist() == [5, 1, 1]
    assert "between 3 (plum) and 500 (apple) training images" in notes[0]
    assert "2 of 3 classes have so few images that 1% of them is none; each keeps one, so 1.3% of all" in notes[1]
    assert "the draw is balanced" in LabelSubset(shots=3).draw(labels, np.arange(len(labels)), CLASSES, 0)[1][0]


def test_too_few_images_of_a_class() -> None:
    labels = np.array([0] * 9 + [1] * 2 + [2] * 3)
    with pytest.raises(
        ValueError, match="5 labelled training images of each class are wanted, but pear has 2, plum has 3; at most 2"
    ):
        LabelSubset(shots=5).draw(labels, np.arange(14), CLASSES, 0)
    with pytest.raises(ValueError, match="pear has 0; such a class cannot be learned"):
        LabelSubset(fraction=0.5).draw(labels, np.array([0, 1, 11]), CLASSES, 0)
    with pytest.raises(ValueError, match="no labels: there is nothing to draw from"):
        LabelSubset(fraction=0.5).draw(np.full(14, -1), np.arange(14), CLASSES, 0)

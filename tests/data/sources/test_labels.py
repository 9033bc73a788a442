import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.sources.labels import (
    annotated,
    index_labels,
    index_multi_hot,
    label_lists,
    multi_hot_of,
    sorted_classes,
    split_names,
)


def test_whole_numbers_sort_by_value():
    assert sorted_classes({"10", "9", "1"}) == ("1", "9", "10")
    assert sorted_classes({"10", "9", "x"}) == ("10", "9", "x")


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        (["dog", "cat", None, "", "dog"], [1, 0, -1, -1, 1], ("cat", "dog")),
        ([3, 10, -1, None, 3], [0, 1, -1, -1, 0], ("3", "10")),
        (["3", " 10 ", "-1"], [0, 1, -1], ("3", "10")),
        ([None, None], [-1, -1], ()),
    ],
)
def test_index(values, labels, classes):
    got, names = index_labels(values)
    assert got.dtype == np.int64
    assert got.tolist() == labels
    assert names == classes


def test_splits_get_their_usual_names():
    got = split_names(["Training", "validation", "val", "TEST", "unlabeled", None])
    assert got.tolist() == ["train", "val", "val", "test", "unlabeled", ""]


@pytest.mark.parametrize(
    ("rows", "given", "tags", "classes"),
    [
        ([["b", "a"], [], None, ["c"]], (), [[1, 1, 0], [0, 0, 0], [255] * 3, [0, 0, 1]], ("a", "b", "c")),
        ([[10, 9], [9, 9], [-1], [None]], (), [[1, 1], [1, 0], [0, 0], [0, 0]], ("9", "10")),
        ([[" dog ", ""], ["dog"]], (), [[1], [1]], ("dog",)),
        ([[2, 0], None, [-1]], ("z", "y", "x"), [[1, 0, 1], [255] * 3, [0, 0, 0]], ("z", "y", "x")),
        ([[3], [0]], ("z", "y", "x"), [[0, 1], [1, 0]], ("0", "3")),
        ([[], None], ("z", "y"), [[0, 0], [255, 255]], ("z", "y")),
        ([[0, 1], [1, 0]], (), [[1, 1], [1, 1]], ("0", "1")),
        ([[0, 1, 1], [1]], (), [[1, 1], [0, 1]], ("0", "1")),
        ([[0, 1, 1], [1, 1, 1]], ("no", "yes"), [[1, 1], [0, 1]], ("no", "yes")),
    ],
)
def test_several_an_image(rows, given, tags, classes):
    got, names = index_multi_hot(rows, "here", given)
    assert got is not None
    assert got.dtype == np.uint8
    assert got.tolist() == tags
    assert names == classes


@pytest.mark.parametrize("rows", [[[], None], [[None], ["", " "]], [[-1], [-2, -3]]])
def test_lists_that_name_no_label(rows):
    assert index_multi_hot(rows, "here") == (None, ())


@pytest.mark.parametrize("rows", [[[0, 1, 1], None, [0, 0, 0]], [["1", "0", "-1"]], [[1, None, 0, 0]] * 2])
def test_a_number_for_every_label_is_refused(rows):
    length = max(len(row) for row in rows if row)
    with pytest.raises(ValueError, match=f"^here holds rows of {length} zeros and ones: list the labels"):
        index_multi_hot(rows, "here")


def test_free_words_are_no_labels():
    rows = [[f"word {i}"] for i in range(100_000)]
    with pytest.raises(ValueError, match="here has 100,000 different labels: with 100,000 images 80,000 at most"):
        index_multi_hot(rows, "here")


@given(data=st.data(), m=st.integers(1, 5))
def test_tags_are_the_same_after_being_lists(data, m):
    row = st.none() | st.lists(st.integers(0, 1), min_size=m, max_size=m)
    rows = data.draw(st.lists(row, max_size=6))
    tags = np.array([[255] * m if row is None else row for row in rows], np.uint8).reshape(-1, m)
    counts, positions = label_lists(tags)
    assert counts.tolist() == [-1 if row is None else sum(row) for row in rows]
    again = multi_hot_of(counts, positions, m)
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, tags)
    assert annotated(tags).tolist() == [row is not None for row in rows]

import numpy as np
import pytest

from maskery.data.labels import index_labels, sorted_classes, split_names


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

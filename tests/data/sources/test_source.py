import numpy as np
import pytest

from maskery.data.sources.names import StringArray
from maskery.data.sources.source import Source, find_column, split_indices


class Named(Source):
    """A source of names alone."""

    def __init__(self, names: list[str], splits: list[str] | None = None):
        self.where, self.notes, self.classes, self.labels = "here", (), (), None
        self.names = StringArray.of([name.encode() for name in names])
        self.splits = None if splits is None else np.array(splits, object)

    def read(self, i: int) -> bytes:
        return b""


def numbered(n: int, splits: list[str] | None = None) -> Named:
    return Named([f"image-{i}.jpg" for i in range(n)], splits)


def test_the_hash_split_is_the_same_everywhere_and_for_ever():
    train, held = split_indices(numbered(200), 0.05)
    assert train.dtype == held.dtype == np.int64
    assert held.tolist() == [28, 71, 112, 132, 151, 161, 176, 179, 195]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(200))


def test_an_image_stays_on_its_side_when_others_come():
    few, many = numbered(500), numbered(2000)
    assert split_indices(few, 0.1)[1].tolist() == [i for i in split_indices(many, 0.1)[1].tolist() if i < 500]
    narrow, wide = split_indices(many, 0.05)[1], split_indices(many, 0.2)[1]
    assert set(narrow.tolist()) < set(wide.tolist())
    assert abs(len(wide) / 2000 - 0.2) < 0.03


def test_few_images_and_no_holdout():
    assert split_indices(numbered(19), 0.5)[1].tolist() == []
    assert len(split_indices(numbered(20), 0.5)[1]) > 0
    assert split_indices(numbered(100), 0)[1].tolist() == []


@pytest.mark.parametrize(
    ("splits", "train", "held"),
    [
        (["train", "val", "test", "train"], [0, 3], [1]),
        (["train", "test", "train", "extra"], [0, 2], [1]),
        (["a", "val", "b", "test"], [0, 2], [1]),
        (["", "test", "", ""], [0, 2, 3], [1]),
        (["train", "train", "train", "train"], [0, 1, 2, 3], []),
    ],
)
def test_splits_decide(splits, train, held):
    got = split_indices(numbered(4, splits), 0.5)
    assert [part.tolist() for part in got] == [train, held]


def test_with_a_train_split_alone_the_hash_decides_within_it():
    splits = ["train"] * 100 + ["extra"] * 100
    train, held = split_indices(numbered(200, splits), 0.2)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(100))
    assert 0 < len(held) < 50
    assert split_indices(numbered(200, splits), 0)[1].tolist() == []


def test_nothing_left_to_train_on():
    with pytest.raises(ValueError, match=r"all 2 images are held out.*its splits: test, val"):
        split_indices(numbered(2, ["val", "test"]), 0.1)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="holdout"):
            split_indices(numbered(50), wrong)


def test_columns_nearest_first():
    assert find_column("t", None, ("path", "image"), ["Image", "id"]) == "Image"
    assert find_column("t", None, ("path",), ["Image"]) is None
    assert find_column("t", "id", (), ["Image", "id"]) == "id"
    with pytest.raises(ValueError, match="t has no column 'imge': it has 'image', 'id', 'x'"):
        find_column("t", "imge", (), ["x", "id", "image"])

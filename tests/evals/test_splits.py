from pathlib import Path

import numpy as np
import pytest

from maskery.data.sources.open import open_source
from maskery.data.sources.source import split_indices
from maskery.evals.splits import check_classes_trained, labelled, match_classes, overlap_notes
from maskery.evals.splits import test_and_validation as divide_held_out


def write(where: Path, *contents: bytes) -> np.ndarray:
    where.mkdir()
    for i, data in enumerate(contents):
        (where / f"{i}.png").write_bytes(data)
    return np.arange(len(contents))


def test_the_same_bytes_in_both(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one", b"two", b"three", b"two", b"four", b"two", b"", b"three", b"three ")
    source, ticks = open_source(tmp_path / "a"), []
    train, test = np.arange(4), np.arange(4, 9)
    (note,) = overlap_notes(source, train, test, lambda *x: ticks.append(x))  # of 4: an empty file is no image
    assert "2 of 4 test images (50.0%) are training images too, byte for byte (5.png is 1.png)" in note
    assert ticks == [(i, 9) for i in range(1, 10)]
    assert (
        "1 of 4 test images (25.0%) are training images too, byte for byte (7.png is 2.png)"
        in (overlap_notes(source, train[2:3], test)[0])
    )
    assert overlap_notes(source, train[:1], test) == []
    assert overlap_notes(source, train, np.array([2])) == []  # it is itself, not its duplicate


def test_files_that_are_gone_are_left_out(tmp_path: Path) -> None:
    every = write(tmp_path / "a", b"one", b"two", b"one")
    source = open_source(tmp_path / "a")
    (tmp_path / "a" / "0.png").unlink()
    assert overlap_notes(source, every[:2], every[2:]) == []


def test_classes_by_name() -> None:
    assert match_classes(["ant", "bee", "cat"], ["cat", "ant"]).tolist() == [2, 0]
    with pytest.raises(
        ValueError, match=r"2 of 3 test classes were not trained on \(dog, emu\); the training has ant, bee"
    ):
        match_classes(["ant", "bee"], ["dog", "ant", "emu"])


def test_labels_that_are_missing_or_all_the_same() -> None:
    labels, classes = np.array([0, 1, -1, 1, 1, -1]), ("ant", "bee")
    assert labelled(labels, np.arange(3), classes, "photos").tolist() == [0, 1]
    with pytest.raises(ValueError, match="photos have no labels"):
        labelled(None, np.arange(3), (), "photos")
    with pytest.raises(ValueError, match="photos: none of 2 has a label"):
        labelled(labels, np.array([2, 5]), classes, "photos")
    with pytest.raises(ValueError, match=r"photos are all of one class \(bee\)"):
        labelled(labels, np.array([1, 2, 3]), classes, "photos")
    assert labelled(labels, np.array([1, 2, 3]), classes, "photos", one_class=True).tolist() == [1, 3]


def test_held_out_classes_without_training_images_are_named() -> None:
    labels = np.array([0, 0, 1, 2, 3, -1])
    check_classes_trained(labels, np.array([0, 2]), np.array([1]), ("a", "b", "c", "d"), "photos")
    with pytest.raises(ValueError, match=r"photos: .* 2 held-out classes have no training image \(c, d\)"):
        check_classes_trained(labels, np.array([0, 2]), np.array([1, 3, 4]), ("a", "b", "c", "d"), "photos")


@pytest.mark.parametrize(
    ("rows", "shown", "chosen_by"),
    [
        ("train,a train,b val,a test,b", [3], [2]),
        ("train,a train,b val,a test,b test, test,a", [3, 4, 5], [2]),  # who has no label is left out later
        ("train,a train,b val,a val,b test, test,", [2, 3], []),  # nobody said what is right there
        ("train,a train,b val,a", [2], []),
        ("train,a train,b test,a", [2], []),
        ("train,a|b train,b val,a test,b", [3], [2]),
        ("train,a|b train,b val,a test,", [2], []),
    ],
)
def test_what_is_reported_and_what_is_chosen_by(
    rows: str, shown: list[int], chosen_by: list[int], tmp_path: Path
) -> None:
    lines = [f"{i}.png,{row}" for i, row in enumerate(rows.split(" "))]
    (tmp_path / "list.csv").write_text("\n".join(["path,split,label", *lines]))
    source = open_source(tmp_path / "list.csv")
    assert (source.multi_hot is not None) == ("|" in rows)
    found = divide_held_out(source, split_indices(source, 0.1)[1])
    assert [which.tolist() for which in found] == [shown, chosen_by]

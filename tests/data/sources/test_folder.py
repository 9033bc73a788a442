import gc
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from maskery.config import ImagesConfig
from maskery.data.sources.folder import FolderSource
from maskery.data.sources.names import StringArray
from maskery.data.sources.open import open_source
from maskery.data.sources.scan import Scan, _cache_file, _save
from maskery.data.sources.source import split_indices
from tests.data.sources.listed import listed


def layout(root: Path, *names: str) -> FolderSource:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    source = open_source(root)
    assert isinstance(source, FolderSource)
    return source


def many(folder: str, n: int = 4) -> list[str]:
    return [f"{folder}/{i}.jpg" for i in range(n)]


def test_reading_by_name(tmp_path):
    source = layout(tmp_path, "b/x.jpg", "a.png")
    assert source.where == str(tmp_path)
    assert list(source.names) == ["a.png", "b/x.jpg"]
    assert [source.read(i) for i in range(len(source))] == [b"a.png", b"b/x.jpg"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.read(0)


def test_it_can_be_pickled(tmp_path):
    source = layout(tmp_path, *many("train/cat"), *many("train/dog"), *many("val/cat"))
    again = pickle.loads(pickle.dumps(source))
    assert list(again.names) == list(source.names)
    assert again.read(1) == source.read(1)
    assert again.classes == source.classes


def test_classes_from_folders(tmp_path):
    source = layout(tmp_path, *many("dog"), *many("cat", 3), "notes.txt")
    assert source.classes == ("cat", "dog")
    assert source.labels.dtype == np.int64
    assert listed(source.labels) == [0] * 3 + [1] * 4
    assert source.splits is None
    assert source.notes == ("2 classes from the folders", "ignored 1 file that is no image")


def test_numbered_classes_sort_by_value(tmp_path):
    source = layout(tmp_path, *many("10"), *many("9"))
    assert source.classes == ("9", "10")
    assert listed(source.labels) == [1] * 4 + [0] * 4


def test_splits_and_classes(tmp_path):
    source = layout(tmp_path, *many("training/a"), *many("training/b"), *many("Validation/b"), *many("test/c"))
    pairs = {
        name: (s, source.classes[k]) for name, s, k in zip(source.names, source.splits, source.labels, strict=True)
    }
    assert pairs["training/a/0.jpg"] == ("train", "a")
    assert pairs["Validation/b/1.jpg"] == ("val", "b")
    assert pairs["test/c/2.jpg"] == ("test", "c")
    assert source.notes == (
        "splits from the folders Validation/, test/ and training/",
        "3 classes from the folders below Validation/, test/ and training/",
    )


def test_a_test_split_without_classes(tmp_path):
    source = layout(tmp_path, *many("train/a"), *many("train/b"), *many("test"))
    assert source.classes == ("a", "b")
    assert listed(source.labels) == [-1] * 4 + [0] * 4 + [1] * 4
    assert source.notes[1] == "2 classes from the folders below train/"


def test_splits_without_classes(tmp_path):
    source = layout(tmp_path, *many("train"), *many("val"))
    assert listed(source.splits) == ["train"] * 4 + ["val"] * 4
    assert source.labels is None
    assert source.classes == ()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a.jpg", "b.jpg"], "in no folders of their own"),
        (many("only"), "one folder, only"),
        ([*many("a"), *many("b"), "c.jpg"], "beside the folders"),
        ([*many("patient1/visit1"), *many("patient2/visit1")], "nested (patient1/visit1)"),
        ([f"{i}/x.jpg" for i in range(9)], "9 folders for 9 images are too many"),
        ([*many("train/a"), *many("train/b"), "train/c.jpg", *many("val/a")], "beside the folders"),
        ([*many("train/a/b"), *many("train/b/b")], "nested (train/a/b)"),
    ],
)
def test_no_classes_and_a_note_saying_why(tmp_path, names, why):
    source = layout(tmp_path, *names)
    assert source.labels is None
    assert source.classes == ()
    (note,) = [note for note in source.notes if note.startswith("no classes")]
    assert why in note


def test_folders_beside_splits_make_no_splits(tmp_path):
    assert layout(tmp_path, *many("train"), *many("extra")).splits is None


def test_labels_can_be_left_aside(tmp_path):
    layout(tmp_path, *many("train/a"), *many("train/b"))
    source = open_source(tmp_path, ImagesConfig(labels=False))
    assert source.labels is None
    assert not any("class" in note for note in source.notes)


def test_a_cached_folder_gives_the_same_source(tmp_path):
    layout(tmp_path, *many("train/a"), *many("train/b"), *many("val/a"))
    first, second = open_source(tmp_path), open_source(tmp_path)
    assert list(first.names) == list(second.names)
    assert first.notes == second.notes


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.txt", "b.txt", "c.json", "d"], "found 2 .txt files, 1 .json file, 1 file without extension"),
        ([], "found nothing"),
    ],
)
def test_a_folder_without_images(tmp_path, names, found):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no images in .*: looked for \.jpg, .*\.tiff; found") as caught:
        open_source(tmp_path)
    assert str(caught.value).endswith(found)


def test_the_index_of_a_million_files_is_small(tmp_path, scan_cache):
    """Memory of what is held, and of what a process gets that it is sent to: under 200 bytes a file, names included."""
    n, per = 1_000_000, 1000
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    folders = tuple(b"%s/n%08d" % (b"train" if k < 900 else b"val", k) for k in range(n // per))
    names = StringArray.of([b"%s/n%08d_%06d.JPEG" % (folders[k // per], k // per, k % per) for k in range(n)])
    folder = np.repeat(np.arange(n // per, dtype=np.int32), per)
    stamps = {prefix: (tmp_path / prefix.decode()).stat().st_mtime_ns for prefix in (b"", b"train/", b"val/")}
    file = _cache_file(str(tmp_path))
    _save(file, str(tmp_path), Scan(names, folders, folder, (), {}, ()), stamps)
    del names, folder
    gc.collect()
    tracemalloc.start()
    try:
        source = open_source(tmp_path)
        held = tracemalloc.get_traced_memory()[0]
        sent = pickle.dumps(source)
        again = pickle.loads(sent)
        both = tracemalloc.get_traced_memory()[0] - len(sent)
    finally:
        tracemalloc.stop()
    assert len(source) == len(again) == n
    assert source.names[-1] == again.names[-1] == "val/n00000999/n00000999_000999.JPEG"
    assert held / n < 100, "names end to end, no object each"
    assert (both - held) / n < 200
    assert len(sent) / n < 200
    train, held_out = split_indices(source, 0.05)
    assert (len(train), len(held_out)) == (900_000, 100_000)

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc
import pyarrow.parquet as parquet
import pytest

from maskery.config import ImagesConfig
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from maskery.data.sources.table import TableSource
from tests.data.sources.listed import listed

BYTES = [b"one", b"two", b"", None, b"five"]
IMAGENETTE = Path(__file__).parents[3] / ".." / "shared" / "data" / "imagenette_128.parquet"


def write(file: Path, table: pa.Table) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(table, file, row_group_size=2)
    elif file.suffix == ".feather":
        feather.write_feather(table, str(file), compression="uncompressed")
    else:
        make = pa.ipc.new_stream if "stream" in file.name else pa.ipc.new_file
        with make(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return file


def contents(source: Source) -> list[bytes]:
    return [source.read(i) for i in range(len(source))]


@pytest.mark.parametrize("file", ["t.parquet", "t.arrow", "stream.arrow", "t.feather"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), "struct"])
def test_bytes_and_hugging_faces_struct(tmp_path, file, kind):
    want = [b or b"" for b in BYTES]
    if kind == "struct":
        image = pa.array([{"bytes": b, "path": f"{i}.jpg"} for i, b in enumerate(BYTES[:3])] + [None, None])
        want[4] = b""
    else:
        image = pa.array(BYTES, kind)
    table = pa.table({"image": image, "label": pa.array([3, 1, -1, None, 3])})
    source = open_source(write(tmp_path / file, table))
    assert isinstance(source, TableSource)
    assert contents(source) == want
    assert list(source.names) == [f"row-{i:08d}" for i in range(5)]
    assert source.classes == ("1", "3")
    assert listed(source.labels) == [1, 0, -1, -1, 1]


def test_the_struct_gives_names_and_files(tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"from the file")
    image = pa.array([{"bytes": b"a", "path": "x/a.jpg"}, {"bytes": None, "path": "b.jpg"}])
    source = open_source(write(tmp_path / "t.parquet", pa.table({"image": image})))
    assert list(source.names) == ["x/a.jpg", "b.jpg"]
    assert contents(source) == [b"a", b"from the file"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_paths_relative_to_the_table(tmp_path, kind):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jpg").write_bytes(b"a")
    table = pa.table({"file_name": pa.array(["a.jpg", "gone.jpg", "a.jpg"]).cast(kind)})
    source = open_source(write(tmp_path / "data/t.arrow", table))
    assert list(source.names) == ["a.jpg", "gone.jpg", "a.jpg#2"]
    assert source.read(2) == b"a"
    with pytest.raises(FileNotFoundError):
        source.read(1)


def test_label_split_and_name_columns(tmp_path):
    table = pa.table(
        {
            "picture": pa.array([b"1", b"2", b"3"]),
            "name": ["n1", "n2", "n1"],
            "class": pa.array(["cat", "ant", None]).dictionary_encode(),
            "split": pa.array(["train", "validation", None]).dictionary_encode(),
        }
    )
    source = open_source(write(tmp_path / "t.parquet", table))
    assert list(source.names) == ["n1", "n2", "n1#2"]
    assert source.classes == ("ant", "cat")
    assert listed(source.labels) == [1, 0, -1]
    assert listed(source.splits) == ["train", "val", ""]
    assert source.notes == ("2 classes from column class", "splits from column split")
    assert open_source(tmp_path / "t.parquet", ImagesConfig(labels=False)).labels is None


def test_class_names_of_hugging_face(tmp_path):
    names = ["zebra", "ape", "never seen"]
    about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"image": [b"1", b"2"], "label": [1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    source = open_source(write(tmp_path / "t.parquet", table))
    assert source.classes == tuple(names)
    assert listed(source.labels) == [1, -1]


TAGS = [["dog", "cat"], [], None, ["dog"], ["ant", "dog", "dog"]]


@pytest.mark.parametrize("file", ["t.parquet", "t.arrow", "stream.arrow", "t.feather"])
@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_lists_are_several_labels_an_image(tmp_path, file, kind):
    table = pa.table({"image": pa.array(BYTES), "label": pa.array(TAGS, kind)})
    source = open_source(write(tmp_path / file, table))
    assert source.labels is None
    assert source.classes == ("ant", "cat", "dog")
    assert listed(source.multi_hot) == [[0, 1, 1], [0, 0, 0], [255, 255, 255], [0, 0, 1], [1, 0, 1]]
    assert source.notes == ("3 labels, several an image, from column label",)
    again = pickle.loads(pickle.dumps(source))
    assert (listed(again.multi_hot), again.classes) == (listed(source.multi_hot), source.classes)
    plain = open_source(tmp_path / file, ImagesConfig(labels=False))
    assert (plain.multi_hot, plain.labels, plain.classes) == (None, None, ())


@pytest.mark.parametrize(
    ("cells", "classes", "rows"),
    [
        (
            pa.array(TAGS, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            ("ant", "cat", "dog"),
            [[0, 1, 1], [0, 0, 0], [255] * 3, [0, 0, 1], [1, 0, 1]],
        ),
        *(
            (
                pa.array([[10, 9], None, [9, 9], [100, 10]], kind),
                ("9", "10", "100"),
                [[1, 1, 0], [255] * 3, [1, 0, 0], [0, 1, 1]],
            )
            for kind in (pa.list_(pa.int64()), pa.list_(pa.uint8(), 2), pa.large_list(pa.int16()))
        ),
        (pa.array([["b"], ["a"]]), ("a", "b"), [[0, 1], [1, 0]]),  # lists of one label are lists
        (pa.array([[], None]), (), None),
        (pa.array([None, None], pa.list_(pa.string())), (), None),
    ],
)
def test_kinds_of_lists(tmp_path, cells, classes, rows):
    table = pa.table({"image": [b"x"] * len(cells), "kinds": cells})
    source = open_source(write(tmp_path / "t.arrow", table), ImagesConfig(label_column="kinds"))
    assert (source.labels, source.classes, listed(source.multi_hot)) == (None, classes, rows)


@pytest.mark.parametrize("shape", ["Sequence", "List", "a list"])
def test_names_of_hugging_faces_lists(tmp_path, shape):
    one = {"names": ["zebra", "ape", "never seen"], "_type": "ClassLabel"}
    feature = [one] if shape == "a list" else {"feature": one, "length": -1, "_type": shape}
    table = pa.table({"image": [b"1", b"2", b"3"], "label": [[1, 0], None, []]})
    about = {"info": {"features": {"label": feature}}}
    source = open_source(
        write(tmp_path / "t.parquet", table.replace_schema_metadata({"huggingface": json.dumps(about)}))
    )
    assert source.classes == ("zebra", "ape", "never seen")
    assert listed(source.multi_hot) == [[1, 1, 0], [255] * 3, [0, 0, 0]]


def test_six_hundred_labels_in_two_shards(tmp_path):
    rows = [sorted({i, (7 * i) % 600, 599 - i}) for i in range(600)]
    for k in (0, 1):
        half = rows[300 * k : 300 * k + 300]
        write(tmp_path / f"{k}.parquet", pa.table({"image": [b"x"] * 300, "label": half}))
    source = open_source(tmp_path)
    assert source.classes == tuple(map(str, range(600)))
    assert [np.flatnonzero(row).tolist() for row in listed(source.multi_hot) or ()] == rows


def test_shards_with_one_label_and_with_several_are_not_alike(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"image": [b"1"], "label": ["x"]}))
    write(tmp_path / "b.parquet", pa.table({"image": [b"1"], "label": [["x"]]}))
    with pytest.raises(ValueError, match=r"b\.parquet: column 'label' is list<.*>, in the first file it is string"):
        open_source(tmp_path)


def test_a_folder_of_shards(tmp_path):
    for name, cells in (
        ("test-00000-of-00001", [b"x"]),
        ("train-00001-of-00002", [b"3"]),
        ("train-00000-of-00002", [b"1", b"2"]),
    ):
        write(tmp_path / "data" / f"{name}.parquet", pa.table({"image": cells}))
    (tmp_path / "README.md").write_text("about")
    source = open_source(tmp_path)
    assert contents(source) == [b"x", b"1", b"2", b"3"]
    assert listed(source.splits) == ["test", "train", "train", "train"]
    assert source.where == str(tmp_path)


def test_shards_must_be_alike(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"image": [b"1"], "label": [1]}))
    write(tmp_path / "b.parquet", pa.table({"image": [b"1"]}))
    with pytest.raises(ValueError, match=r"b\.parquet: column 'label' is missing, in the first file it is int64"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ({"image": [1, 2]}, {}, "column 'image' holds int64"),
        ({"a": [1], "b": [2]}, {}, "no column of images: its columns are 'a', 'b'"),
        ({"image": [b"x"]}, {"image_column": "img"}, "no column 'img': it has 'image'"),
        ({"image": [b"x"], "label": [1.5]}, {}, "column 'label' holds double: labels are integers or strings, or"),
        (
            {"image": [b"x"], "label": [[1.5]]},
            {},
            "column 'label' holds list<.*: double>: labels are integers or strings",
        ),
        ({"image": [b"x"], "label": [[True, False]]}, {}, "column 'label' holds list<.*: bool>: .* lists of these"),
        ({"image": [b"x"], "label": [[["a"]]]}, {}, "column 'label' holds list<.*: list<.*>>: labels are"),
        ({"image": [b"x"], "label": [[0, 1, 0, 0]]}, {}, "column 'label' holds rows of 4 zeros and ones"),
        ({"image": pa.array([], pa.binary())}, {}, "no rows"),
    ],
)
def test_errors(tmp_path, table, columns, message):
    file = write(tmp_path / "t.parquet", pa.table(table))
    with pytest.raises(ValueError, match=message) as caught:
        open_source(file, ImagesConfig(**columns))
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_files_that_are_no_tables(tmp_path, name):
    whole = write(tmp_path / name, pa.table({"image": [b"x" * 1000] * 9})).read_bytes()
    for data in (b"", b"rubbish", whole[:-20], whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table") as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_it_can_be_pickled_and_read_after_a_fork(tmp_path, name):
    source = open_source(write(tmp_path / name, pa.table({"image": [b"1", b"2", b"3"], "label": [5, 6, 5]})))
    again = pickle.loads(pickle.dumps(source))
    assert contents(again) == contents(source)
    assert again.classes == source.classes == ("5", "6")
    assert len(pickle.dumps(source)) < 1000, "its files are opened again, not copied"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(source.read, [2, 0]) == [b"3", b"1"]


def test_uncompressed_arrow_files_stay_on_the_disk(tmp_path):
    file = write(tmp_path / "t.arrow", pa.table({"image": [bytes(1_000_000)] * 20}))
    before = pa.total_allocated_bytes()
    source = open_source(file)
    assert source.read(19) == bytes(1_000_000)
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_imagenette():
    if not IMAGENETTE.exists():
        pytest.skip(f"no {IMAGENETTE}")
    source = open_source(IMAGENETTE)
    assert len(source) == 13394
    assert len(source.classes) == 10
    assert source.read(0)[8:12] == b"WEBP"

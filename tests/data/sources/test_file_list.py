import pickle

import pytest

from maskery.config import ImagesConfig
from maskery.data.sources.file_list import ListSource
from maskery.data.sources.open import open_source
from tests.data.sources.listed import listed


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_one_path_a_line(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/b c.jpg").write_bytes(b"b")
    other = tmp_path / "a.jpg"
    other.write_bytes(b"a")
    text = f"# comment\r\n\r\nimages/b c.jpg\r\n{other}\nnot/there.jpg\n"
    source = open_source(write(tmp_path / "list.txt", text, "utf-8-sig"))
    assert isinstance(source, ListSource)
    assert list(source.names) == ["images/b c.jpg", str(other), "not/there.jpg"]
    assert (source.labels, source.splits, source.classes, source.notes) == (None, None, (), ())
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(0), again.read(1)] == [b"b", b"a"]
    with pytest.raises(FileNotFoundError):
        again.read(2)


def test_names_that_are_no_utf8(tmp_path):
    with open(bytes(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"here")
    (tmp_path / "l.lst").write_bytes(b"\xff.jpg\n")
    source = open_source(tmp_path / "l.lst")
    assert source.names[0] == "\udcff.jpg"
    assert source.read(0) == b"here"


def test_a_name_that_no_file_can_have(tmp_path):
    source = open_source(write(tmp_path / "l.txt", "a\0.jpg\n"))
    with pytest.raises(OSError, match="not a file name"):
        source.read(0)


def test_files_named_twice(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    source = open_source(write(tmp_path / "l.txt", "a.jpg\nb.jpg\na.jpg\n"))
    assert list(source.names) == ["a.jpg", "b.jpg", "a.jpg#2"]
    assert source.read(2) == b"a"
    assert source.notes == ("1 files are named more than once",)


@pytest.mark.parametrize(("name", "comma"), [("t.csv", ","), ("t.tsv", "\t")])
@pytest.mark.parametrize("header", ["path,label,split", "Filename,Class,Subset", "image_path,target,split"])
def test_columns_by_their_usual_names(tmp_path, name, comma, header):
    rows = [header, "x/a.jpg,dog,train", '"b, c.jpg",cat,valid', "d.jpg,,test"]
    if comma == "\t":
        rows = [r.replace('"b, c.jpg"', "b; c.jpg").replace(",", "\t").replace(";", ",") for r in rows]
    source = open_source(write(tmp_path / name, "\n".join(rows) + "\n\n"))
    assert list(source.names) == ["x/a.jpg", "b, c.jpg", "d.jpg"]
    assert source.classes == ("cat", "dog")
    assert listed(source.labels) == [1, 0, -1]
    assert listed(source.splits) == ["train", "val", "test"]


def test_columns_that_are_given(tmp_path):
    file = write(tmp_path / "t.csv", "id,where,kind,path,fold\n1,a.jpg,9,no,x\n2,b.jpg,10,no,y\n")
    source = open_source(file, ImagesConfig(image_column="where", label_column="kind", split_column="fold"))
    assert list(source.names) == ["a.jpg", "b.jpg"]
    assert source.classes == ("9", "10")
    assert listed(source.splits) == ["x", "y"]
    plain = open_source(file, ImagesConfig(image_column="where", labels=False))
    assert plain.labels is None


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_several_labels_in_a_cell(tmp_path, name):
    text = "path,label,split\na.jpg,dog|cat,train\nb.jpg,dog,val\nc.jpg,,val\nd.jpg,|,train\ne.jpg,cat | ant|,train\n"
    source = open_source(write(tmp_path / name, text.replace(",", "\t") if name == "t.tsv" else text))
    assert source.labels is None
    assert source.classes == ("ant", "cat", "dog")
    assert listed(source.multi_hot) == [[0, 1, 1], [0, 0, 1], [255] * 3, [0, 0, 0], [1, 1, 0]]
    assert source.notes == ("3 labels, several an image, from column label", "splits from column split")
    again = pickle.loads(pickle.dumps(source))
    assert (listed(again.multi_hot), again.classes) == (listed(source.multi_hot), source.classes)
    plain = open_source(tmp_path / name, ImagesConfig(labels=False))
    assert (plain.multi_hot, plain.classes) == (None, ())


def test_several_numbers_in_a_cell(tmp_path):
    source = open_source(
        write(tmp_path / "t.csv", "path,kinds\na,10|9\nb,-1\nc,9\n"), ImagesConfig(label_column="kinds")
    )
    assert source.classes == ("9", "10")
    assert listed(source.multi_hot) == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("path,labels\na.jpg,1\n", {"label_column": "label"}, "has no column 'label': it has 'labels', 'path'"),
        ("a,b\n1,2\n", {}, "has no column named path, image,.*its columns are 'a', 'b'"),
        ("path\n", {}, "names no file"),
        ("", {}, "is empty"),
        ("path,label\na.jpg,1\n,2\n", {}, "row 2 below the header has no path"),
        ("path,label\na.jpg,0|1|1\nb.jpg,0|0|0\n", {}, "column 'label' holds rows of 3 zeros and ones"),
    ],
)
def test_errors_of_tables_of_text(tmp_path, text, columns, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_source(write(tmp_path / "t.csv", text), ImagesConfig(**columns))
    assert "\n" not in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_errors_of_lists(tmp_path):
    file = write(tmp_path / "l.txt", "# nothing\n")
    with pytest.raises(ValueError, match="no images"):
        open_source(file)
    with pytest.raises(ValueError, match="it has no column 'x'"):
        open_source(file, ImagesConfig(label_column="x"))

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.pack.shards import Row, digest_of, printable, read_shard_index, shard_schema, shard_writer

ROWS = st.tuples(st.binary(min_size=1, max_size=9), st.none() | st.binary(min_size=1, max_size=99), st.integers(-1, 2))


def row(name: bytes, data: bytes | None, label: int = -1) -> Row:
    reason = "it is broken" if data is None else None
    return Row(name, label, "val", data, (3, 4), (30, 40), "jpeg" if data else "", zlib.crc32(data or b""), reason)


def write(folder: Path, rows: list[Row], *, text: bool = False):
    schema = shard_schema(("a", "b", "\udcff"), labelled=True, split=True, text=text, decodable=True)
    with shard_writer(folder, 3, 7, schema) as writer:
        for r in rows:
            writer.add(r)
    assert writer.shard
    return writer.shard


@given(st.lists(ROWS, min_size=1, max_size=30))
def test_every_image_lies_where_it_is_said_to_lie(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("shard")
    shard = write(folder, [row(*r) for r in rows])
    assert (shard.file, shard.first, shard.rows) == ("shard-00003.arrow", 7, len(rows))
    data = (folder / shard.file).read_bytes()
    assert (len(data), hashlib.blake2b(data, digest_size=32).hexdigest()) == (shard.bytes, shard.blake2b)
    assert digest_of(folder / shard.file) == shard.blake2b
    index = read_shard_index(folder / shard.file)
    cut = [data[s : s + n] or None for s, n in zip(index.start.tolist(), index.length.tolist(), strict=True)]
    assert cut == [image for _, image, _ in rows]
    assert [zlib.crc32(image or b"") for image in cut] == index.crc32.tolist()
    assert (np.diff(index.start) >= 0).all()
    assert index.skipped == [(printable(name), "it is broken") for name, image, _ in rows if image is None]
    assert index.encodings["jpeg"] == sum(image is not None for _, image, _ in rows)


def test_many_images_are_many_batches_and_one_table(tmp_path):
    shard = write(tmp_path, [row(b"%d.jpg" % i, bytes([i % 255 + 1]) * 40_000, i % 3) for i in range(300)], text=True)
    with pa.memory_map(str(tmp_path / shard.file)) as mapped:
        opened = pa.ipc.open_file(mapped)
        assert opened.num_record_batches == 3
        table = opened.read_all()
    assert table["name"].to_pylist() == [f"{i}.jpg" for i in range(300)]
    assert table["image"][299].as_py()["bytes"] == bytes([299 % 255 + 1]) * 40_000
    assert table["label"].to_pylist()[:4] == [0, 1, 2, 0]
    index = read_shard_index(tmp_path / shard.file)
    with (tmp_path / shard.file).open("rb") as file:
        file.seek(int(index.start[299]))
        assert file.read(int(index.length[299])) == bytes([299 % 255 + 1]) * 40_000


def test_lists_of_labels(tmp_path):
    schema = shard_schema(("a", "\udcff"), labelled=False, split=False, text=True, decodable=False, multilabel=True)
    labels = [[1, 0], [], -1]
    with shard_writer(tmp_path, 0, 0, schema) as writer:
        for k, label in enumerate(labels):
            writer.add(Row(b"%d" % k, label, "", b"data", (1, 1), (1, 1), "raw", 0, None))
    shard = writer.shard
    assert shard
    with pa.memory_map(str(tmp_path / shard.file)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    assert table["label"].to_pylist() == [[1, 0], [], None]
    one = {"names": ["a", "\\xff"], "_type": "ClassLabel"}
    about = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert about == {"label": {"feature": one, "length": -1, "_type": "Sequence"}}


def test_what_is_given_up_leaves_nothing(tmp_path):
    schema = shard_schema((), labelled=False, split=False, text=True, decodable=True)

    def give_up() -> None:
        with shard_writer(tmp_path, 0, 0, schema) as writer:
            writer.add(row(b"x", b"data"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "s.arrow").write_bytes(b"rubbish" * 9)
    with pytest.raises(ValueError, match=r"s\.arrow: damaged"):
        read_shard_index(tmp_path / "s.arrow")

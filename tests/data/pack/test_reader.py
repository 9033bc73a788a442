import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskery.cli import main
from maskery.config import ImagesConfig
from maskery.data.decode.unreadable import Unreadable
from maskery.data.images import Images
from maskery.data.pack.encode import Encoding
from maskery.data.pack.reader import PackedSource, index_bytes
from maskery.data.pack.shards import ShardIndex
from maskery.data.pack.writer import PackOptions, pack_source
from maskery.data.sources.names import StringArray
from maskery.data.sources.open import open_source
from maskery.terminal import Quiet
from maskery.text import to_bytes


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """40 raw pictures of 3 x 100 x 100 pixels in two shards."""
    (tmp_path / "in").mkdir()
    for i in range(40):
        noise = np.random.default_rng(i).integers(0, 256, (100, 100, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{i:02d}.png", compress_level=0)
    pack_source(
        open_source(tmp_path / "in"), tmp_path / "out", PackOptions(Encoding(0, "raw"), shard_mb=1, workers=0), Quiet()
    )
    return tmp_path / "out"


def change(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_pickled_and_forked(packed):
    source = open_source(packed)
    assert len(pickle.dumps(source)) < 1000, "it is opened again, not copied"
    want = [source.read(i) for i in range(40)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(source.read, range(40)) == want
    assert [pickle.loads(pickle.dumps(source)).read(i) for i in range(40)] == want


def test_a_changed_byte_is_told_by_the_name_of_its_shard(packed, capsys):
    start = int(open_source(packed)._start[7])
    change(packed / "shard-00000.arrow", start + 5000)
    source = open_source(packed)
    with pytest.raises(OSError, match=r"damaged: its checksum in shard-00000\.arrow does not fit"):
        source.read(7)
    images = Images(source, channels=3, bits=8, pages="first", min_side=50)
    with pytest.raises(Unreadable, match=r"shard-00000\.arrow"):
        images[7]
    assert images[6].shape == (50, 50, 3)
    assert source.damaged() == ["shard-00000.arrow: damaged: its checksum does not fit"]
    assert main(["inspect", "--data", str(packed)]) == 1
    said = capsys.readouterr()
    assert "shard-00000.arrow: damaged" in said.err
    assert said.err.count("\n") == 1
    assert "07.png: damaged" in said.out


def test_a_change_beside_the_images_is_told_by_inspect(packed):
    file = packed / "shard-00001.arrow"
    change(file, file.stat().st_size - 100)
    assert open_source(packed).damaged() == ["shard-00001.arrow: damaged: its checksum does not fit"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "shard-00001.arrow").unlink(), r"shard-00001\.arrow: missing"),
        (lambda p: (p / "shard-00001.arrow").write_bytes(b"x"), r"shard-00001\.arrow: damaged: 1 bytes of"),
        (lambda p: (p / "index.npz").unlink(), r"index\.npz: missing"),
        (lambda p: change(p / "index.npz", 900), r"index\.npz: damaged"),
        (lambda p: (p / "index.npz").write_bytes((p / "index.npz").read_bytes()[:500]), r"index\.npz: damaged"),
        (lambda p: (p / "pack.json").write_text("{}"), r"pack\.json: damaged"),
        (lambda p: (p / "pack.json").write_text("rubbish"), r"pack\.json: damaged"),
        (lambda p: (p / "pack.json").write_text('{"version": 9}'), "a pack of version 9; this program reads version 1"),
    ],
)
def test_damage_is_found_when_it_is_opened(packed, damage, message):
    damage(packed)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(packed)
    assert "\n" not in str(caught.value)
    assert str(packed) in str(caught.value)


def test_tags_that_do_not_fit_the_classes_are_damage(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,x|y\nb.png,y\n")
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    pack_source(open_source(tmp_path / "list.csv"), tmp_path / "out", PackOptions(workers=0), Quiet())
    manifest = tmp_path / "out" / "pack.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "classes": ["x"]}))
    with pytest.raises(ValueError, match=r"index\.npz: damaged"):
        open_source(tmp_path / "out")


def test_columns_are_for_tables(packed):
    with pytest.raises(ValueError, match="packed data set: it has no column 'x'"):
        open_source(packed, ImagesConfig(label_column="x"))


def test_digests_are_those_of_b2sum(packed):
    import hashlib

    shard = json.loads((packed / "pack.json").read_text())["shards"][0]
    data = (packed / shard["file"]).read_bytes()
    assert (hashlib.blake2b(data, digest_size=32).hexdigest(), len(data)) == (shard["blake2b"], shard["bytes"])


def test_the_index_of_a_million_images_is_small(tmp_path):
    n = 1_000_000
    names = StringArray.of([b"train/n%08d/n%08d_%06d.JPEG" % (k // 1000, k // 1000, k % 1000) for k in range(n)])
    part = ShardIndex(
        np.arange(n, dtype=np.int64) * 20_000,
        np.full(n, 20_000, np.uint32),
        np.zeros(n, np.uint32),
        np.zeros((n, 2), np.int32),
        [],
        {},
    )
    index = index_bytes(names, np.arange(n) // 1000, np.zeros(n, np.int32), [part])
    assert len(index) < 100 * n
    about = {
        "version": 1,
        "source": {"where": "/x", "images": n, "digest": ""},
        "encoding": {"format": "jpeg", "short_side": 256},
        "shard_mb": 256,
        "classes": [str(i) for i in range(1000)],
        "splits": ["train"],
        "labelled": True,
        "unreadable": 0,
        "shards": [{"file": "shard-00000.arrow", "first": 0, "rows": n, "bytes": 4, "blake2b": ""}],
    }
    (tmp_path / "pack.json").write_text(json.dumps(about))
    (tmp_path / "index.npz").write_bytes(index)
    (tmp_path / "shard-00000.arrow").write_bytes(b"1234")
    source = open_source(tmp_path)
    assert isinstance(source, PackedSource)
    arrays = [a for a in vars(source).values() if isinstance(a, np.ndarray)]
    held = sum(a.nbytes for a in arrays) + len(source.names.blob) + source.names.offsets.nbytes
    assert held / n < 110
    assert to_bytes(source.names[999_999]) == b"train/n00000999/n00000999_000999.JPEG"

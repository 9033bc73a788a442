"""Packing: whole or unfinished, the same whatever interrupts it, and the same samples as from the original."""

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import maskery
from maskery.cli import main
from maskery.config import ImagesConfig
from maskery.data.crops import Crop
from maskery.data.dataset import ImageData
from maskery.data.images import Images
from maskery.data.pack.encode import Encoding
from maskery.data.pack.reader import PackedSource
from maskery.data.pack.writer import PackOptions, pack_source
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source, split_indices
from maskery.data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from maskery.terminal import Quiet

RAW = Encoding(0, "raw")


def pack(source: Source | Path, out: Path, how: Encoding = RAW, **options) -> PackedSource:
    source = source if isinstance(source, Source) else open_source(source)
    return pack_source(source, out, PackOptions(how, **{"workers": 0, **options}), Quiet())[0]


def draws(source: Source, size: int = 24) -> list:
    images = Images(source, channels=3, bits=8, pages="first", min_side=2 * size)
    train, _ = split_indices(source, 0.2)
    plan = TrainDataset(images, train, SamplingPlan((size, size), 0, 8), RandomCrops([Crop()]))
    return [plan[k] for k in range(4)]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and bool((a == b).all())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 pictures of height and width 90 and 120 or 120 and 90 in two classes, one of them not readable: 4 MB raw."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(130):
        coarse = draw.integers(0, 256, (6, 8, 3), np.uint8)
        size = (90, 120) if i % 2 else (120, 90)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / "ab"[i % 2] / f"{i:03d}.png", compress_level=1)
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG nothing")
    return folder


@pytest.fixture(scope="module")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those at full size, raw, in five shards."""
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack(photos, out, shard_mb=1)
    return out


# ------------------------------------------------------------------------------------------- the same as the original
def test_names_order_labels_and_what_is_held_out(photos, packed):
    original, copy = open_source(photos), open_source(packed)
    assert isinstance(copy, PackedSource)
    assert list(copy.names) == list(original.names)
    assert (copy.labels.tolist(), copy.classes) == (original.labels.tolist(), original.classes)
    for a, b in zip(split_indices(original, 0.2), split_indices(copy, 0.2), strict=True):
        np.testing.assert_array_equal(a, b)
    prints = [
        ImageData(Images(s, channels=3, bits=8, pages="first", min_side=48), np.arange(50), np.arange(0), None, ())
        for s in (original, copy)
    ]
    assert prints[0].fingerprint() == prints[1].fingerprint()
    assert open_source(packed, ImagesConfig(labels=False)).labels is None


def test_raw_at_full_size_gives_the_same_views_bit_for_bit(photos, packed):
    want, got = draws(open_source(photos)), draws(open_source(packed))
    assert same(want, want)
    for a, b in zip(want, got, strict=True):
        reasons = [{name for name, _ in item.pop("skipped")} for item in (a, b)]
        assert reasons[0] == reasons[1]
        assert same(a, b)


def test_copied_jpegs_give_the_same_views_bit_for_bit(photos, tmp_path):
    (tmp_path / "jpegs").mkdir()
    for file in sorted(photos.rglob("0*.png")):
        Image.open(file).save(tmp_path / "jpegs" / f"{file.stem}.jpg")
    pack(tmp_path / "jpegs", tmp_path / "out", Encoding(0))
    assert same(draws(open_source(tmp_path / "jpegs")), draws(open_source(tmp_path / "out")))


def test_a_smaller_copy_shows_the_same_regions(photos, tmp_path):
    want = draws(open_source(photos))
    pack(photos, tmp_path / "out", Encoding(60, "raw"))
    got = draws(open_source(tmp_path / "out"))
    for a, b in zip(want, got, strict=True):
        difference = (a["views"][0].float() - b["views"][0].float()).abs()
        assert difference.mean() < 2, "another crop of these pictures differs by tens"
    moved = (want[0]["views"][0].float() - got[0]["views"][0].roll(1, -1).float()).abs().mean()
    assert moved > 4, "one pixel beside is seen"


def test_splits(scene_folder, tmp_path):
    pack(scene_folder, tmp_path / "out")
    copy, original = open_source(tmp_path / "out"), open_source(scene_folder)
    assert copy.splits.tolist() == original.splits.tolist()
    assert copy.labels.tolist() == original.labels.tolist()


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """Nine images in three batches of a table, with lists of labels."""
    rows = [["b", "a"], [], None, ["\U0001f98a"], ["a", "a"], None, [], ["b"], ["a", "b", "\U0001f98a"]]
    cells = []
    for k in range(9):
        data = io.BytesIO()
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (400, 300, 3), np.uint8)).save(data, "PNG")
        cells.append(data.getvalue())
    cells[5] = b"broken"
    table = pa.table({"image": cells, "name": [f"n{k}" for k in range(9)], "label": rows})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    return tmp_path / "t.parquet"


def test_several_labels_an_image(tagged, tmp_path):
    original = open_source(tagged)
    pack(original, tmp_path / "out", shard_mb=1, max_unreadable=0.2)
    copy = open_source(tmp_path / "out")
    assert len(copy.manifest.shards) > 1
    assert copy.labels is None
    assert copy.multi_hot.dtype == np.uint8
    assert copy.multi_hot.tolist() == original.multi_hot.tolist()
    assert copy.multi_hot[[0, 1, 5]].tolist() == [[1, 1, 0], [0, 0, 0], [255, 255, 255]]
    assert copy.classes == original.classes == ("a", "b", "\U0001f98a")
    again = pickle.loads(pickle.dumps(copy))
    assert again.multi_hot.tolist() == original.multi_hot.tolist()
    plain = open_source(tmp_path / "out", ImagesConfig(labels=False))
    assert (plain.multi_hot, plain.labels, plain.classes) == (None, None, ())
    read = ImageData(Images(copy, channels=3, bits=8, pages="first", min_side=48), np.arange(9), np.arange(0), None, ())
    assert read.multi_hot is copy.multi_hot


def test_shards_with_lists_are_tables_and_can_be_packed_again(tagged, tmp_path):
    pack(tagged, tmp_path / "out", Encoding(45), max_unreadable=0.2)
    table = open_source(tmp_path / "out" / "shard-00000.arrow")
    assert (table.classes, table.multi_hot.tolist()) == (
        open_source(tagged).classes,
        open_source(tagged).multi_hot.tolist(),
    )
    pack(tmp_path / "out", tmp_path / "twice", max_unreadable=0.2)
    assert open_source(tmp_path / "twice").multi_hot.tolist() == table.multi_hot.tolist()


def test_packs_without_lists_are_as_they_were(packed):
    with np.load(packed / "index.npz") as index:
        assert set(index) == {"names", "offsets", "hashes", "labels", "splits", "start", "length", "crc32", "full"}
    assert open_source(packed).multi_hot is None


@settings(max_examples=20)
@given(names=st.lists(st.text(st.characters(codec=None, exclude_characters="/\0"), min_size=1), min_size=1, max_size=4))
def test_odd_names(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "in").mkdir()
    image = Image.new("RGB", (4, 4))
    made = 0
    for name in names:
        try:
            path = os.fsencode(name)[:200].lstrip(b".") + b".png"
        except UnicodeEncodeError:
            continue
        with open(os.path.join(os.fsencode(folder / "in"), path), "wb") as file:
            image.save(file, "PNG")
        made += 1
    if made:
        original = open_source(folder / "in")
        pack(original, folder / "out")
        assert list(open_source(folder / "out").names) == list(original.names)


# ------------------------------------------------------------------------------------------- for other tools
def test_shards_are_tables_of_hugging_faces_images(photos, tmp_path):
    pack(photos, tmp_path / "out", Encoding(45))
    with pa.memory_map(str(tmp_path / "out" / "shard-00000.arrow")) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
    about = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert about == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    rows = table.to_pylist()
    assert rows[0]["image"]["path"] == rows[0]["name"] == "a/000.png"
    assert rows[0]["image"]["bytes"][:2] == b"\xff\xd8"
    assert (rows[0]["height"], rows[0]["width"], rows[0]["full_height"], rows[0]["full_width"]) == (45, 60, 90, 120)
    broken = next(r for r in rows if r["name"] == "a/broken.png")
    assert broken["image"] is None
    assert "damaged PNG" in broken["unreadable"]
    again = open_source(tmp_path / "out" / "shard-00000.arrow")  # any shard is a table of images to us as well
    assert list(again.names) == [r["name"] for r in rows]
    assert again.read(0) == rows[0]["image"]["bytes"]


# ------------------------------------------------------------------------------------------- interruptions
def test_any_number_of_workers_makes_the_same_files(photos, packed, tmp_path):
    pack(photos, tmp_path / "out", shard_mb=1, workers=2)
    assert contents(tmp_path / "out") == contents(packed)


@pytest.mark.parametrize("finished", [0, 2])
@pytest.mark.parametrize("state", ["half a shard", "not listed", "no manifest"])
def test_going_on_from_every_state_ends_in_the_same_files(photos, packed, tmp_path, state, finished):
    """The states that a kill leaves: a half-written shard, one that is renamed but not listed, all but the manifest."""
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    manifest = json.loads((out / "pack.json").read_text())
    plan = {name: manifest[name] for name in ("version", "source", "encoding", "shard_mb")}
    shards = manifest["shards"]
    listed = shards if state == "no manifest" else shards[:finished]
    (out / "packing.json").write_text(json.dumps({"plan": plan, "shards": listed}))
    (out / "pack.json").unlink()
    if state == "half a shard":
        for shard in shards[finished:]:
            (out / shard["file"]).unlink()
        (out / f".writing-{shards[finished]['file']}").write_bytes(b"half")
        (out / "index.npz").unlink()
    with pytest.raises(ValueError, match="a pack that is not finished"):
        open_source(out)
    kept = {s["file"]: (out / s["file"]).stat().st_mtime_ns for s in listed}
    pack(photos, out, shard_mb=1)
    assert contents(out) == contents(packed)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept, "finished shards are not made again"


def gone(group: int) -> bool:
    """Whether all processes of a group end within a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_kill_9(tmp_path):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "0.png", compress_level=0)
    for i in range(1, 700):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{i}.png")
    out = tmp_path / "out"
    options = ["--data", str(tmp_path / "in"), "--out", str(out), "--format", "raw", "--shard-mb", "1"]
    command = [sys.executable, "-m", "maskery", "pack", *options, "--workers", "1"]
    running = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + 100
    while not (out / "shard-00002.arrow").exists() and time.monotonic() < until:
        time.sleep(0.002)
    assert running.poll() is None, "it was done before it could be killed"
    os.kill(running.pid, signal.SIGKILL)  # not its worker, which notices
    running.wait()
    assert gone(running.pid)
    assert not (out / "pack.json").exists()
    listed = json.loads((out / "packing.json").read_text())["shards"]
    kept = {s["file"]: (out / s["file"]).stat().st_ino for s in listed}
    assert len(kept) >= 2
    assert main(["pack", *options, "--workers", "0"]) == 0
    assert {name: (out / name).stat().st_ino for name in kept} == kept
    assert not list(out.glob(".*"))
    source = open_source(out)
    assert len(source) == 700
    assert source.damaged() == []


# ------------------------------------------------------------------------------------------- refusals
class Stops(Source):
    """The images of another source, up to one at which the machine stops."""

    def __init__(self, of: Source, at: int):
        self.of, self.at = of, at
        self.where, self.names, self.labels, self.classes = of.where, of.names, of.labels, of.classes
        self.splits, self.notes, self.multi_hot = of.splits, (), of.multi_hot

    def read(self, i: int) -> bytes:
        if i == self.at:
            raise RuntimeError("the machine stops")
        return self.of.read(i)


@pytest.fixture
def unfinished(photos, tmp_path):
    with pytest.raises(RuntimeError, match="the machine stops"):
        pack(Stops(open_source(photos), 60), tmp_path / "out", shard_mb=1)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"how": Encoding(0, "jpeg")}, "other format 'raw', now 'jpeg'"),
        ({"how": Encoding(100, "raw")}, "other short side 0, now 100"),
        ({"shard_mb": 2}, "other shard mb 1, now 2"),
    ],
)
def test_other_options_do_not_go_on(photos, unfinished, change, message):
    before = contents(unfinished)
    with pytest.raises(ValueError, match=message) as caught:
        pack(photos, unfinished, **{"shard_mb": 1, **change})
    assert "\n" not in str(caught.value)
    assert contents(unfinished) == before


def test_another_source_does_not_go_on(photos, unfinished, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    with pytest.raises(ValueError, match="other where"):
        pack(tmp_path / "copy", unfinished, shard_mb=1)
    source = open_source(photos)
    source.labels = source.labels[::-1].copy()
    with pytest.raises(ValueError, match="other names, labels or splits"):
        pack(source, unfinished, shard_mb=1)


def test_other_lists_of_labels_do_not_go_on(tagged, tmp_path):
    with pytest.raises(RuntimeError, match="the machine stops"):
        pack(Stops(open_source(tagged), 7), tmp_path / "out", shard_mb=1, max_unreadable=0.2)
    source = open_source(tagged)
    source.multi_hot[0, 0] = 0
    with pytest.raises(ValueError, match="other names, labels or splits"):
        pack(source, tmp_path / "out", shard_mb=1, max_unreadable=0.2)
    pack(tagged, tmp_path / "out", shard_mb=1, max_unreadable=0.2)
    assert open_source(tmp_path / "out").multi_hot.tolist() == open_source(tagged).multi_hot.tolist()


def test_what_exists_is_refused_and_only_packs_are_replaced(photos, packed, tmp_path, unfinished):
    with pytest.raises(ValueError, match="exists already; --overwrite replaces it"):
        pack(photos, packed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds something else"):
            pack(photos, tmp_path / "other", overwrite=overwrite)
    assert contents(tmp_path / "other") == {"thesis.tex": b"words"}
    with pytest.raises(ValueError, match="is a file"):
        pack(photos, tmp_path / "other" / "thesis.tex")
    pack(photos, unfinished, Encoding(10), overwrite=True)
    assert sorted(contents(unfinished)) == ["index.npz", "pack.json", "shard-00000.arrow", "skipped.jsonl"]


def test_two_at_once_are_refused(photos, unfinished):
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True);"
    with subprocess.Popen(
        [sys.executable, "-c", code + "input()", str(unfinished / ".lock")], stdin=-1, stdout=-1
    ) as p:
        p.stdout.readline()
        with pytest.raises(ValueError, match="another process is packing into it"):
            pack(photos, unfinished, shard_mb=1)
        p.communicate(b"\n")
    pack(photos, unfinished, shard_mb=1)


def test_too_many_unreadable_ones_stop_it_and_are_listed(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    for i in (3, 5, 7):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"")
    args = ["pack", "--data", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(args) == 1
    assert "3 of 40 images cannot be read, more than the 5%" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["3.png", "5.png", "7.png"]
    for i in (3, 5):
        (tmp_path / "in" / f"{i}.png").write_bytes((tmp_path / "in" / "0.png").read_bytes())
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "40 images in 1 shards" in out
    assert "1 could not be read" in out


def test_the_command_line(photos, tmp_path, capsys):
    out = maskery.pack(data=str(photos), out=tmp_path / "p", short_side=64, workers=0)
    assert out == tmp_path / "p"
    assert "131 images in 1 shards" in capsys.readouterr().out
    bad = [
        (["--short-side", "-5"], "short side is -5"),
        (["--quality", "400"], "quality is 400"),
        (["--shard-mb", "0"], "shard size is 0"),
        (["--out", "s3://bucket/x"], "written to a local directory"),
        (["--data", str(tmp_path / "none")], "no such file or folder"),
    ]
    for options, message in bad:
        assert main(["pack", "--data", str(photos), "--out", str(tmp_path / "q"), *options]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "q").exists()
    assert main(["pack", "--data", str(photos), "--out", str(tmp_path / "q"), "--format", "webp"]) == 2

"""Whatever somebody has: odd folders, odd files, odd numbers of images."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import yaml
from PIL import Image

from maskery.cli import main
from maskery.options import options
from tests.test_train import TINY, metrics


def pretrain(data: Path, out: Path, **leaves: object) -> int:
    return main(["pretrain", *options(TINY | {"data": str(data), "out": str(out), "steps": 2} | leaves)])


def noise(seed: int, height: int = 40, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_images(folder: Path, n: int, **shape: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(noise(i, **shape)).save(folder / f"{i:03}.png")
    return folder


def config_of(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(write_images(tmp_path / "one", 1), tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "training on 1 images, 0 held out (too few images to hold some out)" in said
    assert "batch 16 is larger than the 1 training images: every step sees an image about 16.0 times" in said
    assert all("held_out_loss" not in f for f in metrics(tmp_path / "run"))


def test_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert pretrain(empty, tmp_path / "run") == 1
    assert "no images" in capsys.readouterr().err
    (empty / "notes.txt").write_text("hello")
    assert pretrain(empty, tmp_path / "run") == 1
    assert ".txt" in capsys.readouterr().err
    (tmp_path / "movie.mp4").write_bytes(b"x")
    assert pretrain(tmp_path / "movie.mp4", tmp_path / "run") == 1
    assert not (tmp_path / "run").exists()


def test_images_smaller_than_the_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(write_images(tmp_path / "small", 30, height=9, width=13), tmp_path / "run") == 0
    assert "some images are smaller than 32 x 32 pixels and are enlarged" in capsys.readouterr().err


def test_a_few_unreadable_files_are_skipped_and_listed(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", 50)
    (data / "007.png").write_bytes((data / "007.png").read_bytes()[:200])
    (data / "zero.jpg").write_bytes(b"")
    assert pretrain(data, tmp_path / "run", images={"memory": 8.0}) == 0
    listed = {
        json.loads(line)["name"]: json.loads(line)["reason"] for line in (tmp_path / "run" / "skipped.jsonl").open()
    }
    assert listed.keys() == {"007.png", "zero.jpg"}
    assert all(listed.values())
    assert pretrain(data, tmp_path / "streamed", images={"memory": 0.0}, steps=8) == 0  # found while training
    assert (tmp_path / "streamed" / "skipped.jsonl").exists()
    assert pretrain(data, tmp_path / "again", images={"memory": 0.0}) == 0
    found = {json.loads(line)["name"] for line in (tmp_path / "again" / "skipped.jsonl").open()}
    assert found == {"007.png", "zero.jpg"}  # known before the first step, held out or not
    assert metrics(tmp_path / "again")[-2]["loss"] == metrics(tmp_path / "run")[-2]["loss"]  # the same replacements


def test_many_unreadable_files_stop_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "images", 40)
    for i in range(8):
        (data / f"bad-{i}.jpg").write_bytes(b"no image")
    assert pretrain(data, tmp_path / "run") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "8 of 48 images cannot be read, more than the 5%" in said
    assert "bad-0.jpg: " in said
    assert "and 3 more" in said
    assert not (tmp_path / "run").exists()
    assert pretrain(data, tmp_path / "run", images={"unreadable": 0.2}) == 0


def test_a_hospitals_sixteen_bit_tiffs(tmp_path: Path) -> None:
    """Grey, 12 of 16 bits used: one channel, its own mean and std, and the features see more than 8 bits would."""
    data = tmp_path / "scans"
    data.mkdir()
    for i in range(30):
        ramp = np.linspace(600, 900 + 10 * i, 64 * 64).reshape(64, 64).astype(np.uint16)
        tifffile.imwrite(data / f"{i:02}.tif", ramp)
    assert pretrain(data, tmp_path / "run") == 0
    images = config_of(tmp_path / "run")["images"]
    assert (images["channels"], images["bits"]) == (1, 16)
    assert images["mean"][0] == pytest.approx(np.mean([(600 + 900 + 10 * i) / 2 for i in range(30)]) / 65535, rel=0.05)
    assert 0 < images["std"][0] < 0.01
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "timm")]) == 0
    exported = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert exported["model_args"]["in_chans"] == 1
    assert exported["pretrained_cfg"]["mean"] == images["mean"]


def test_pages_as_channels(tmp_path: Path) -> None:
    data = tmp_path / "stacks"
    data.mkdir()
    for i in range(25):
        tifffile.imwrite(data / f"{i}.tif", np.random.default_rng(i).integers(0, 255, (5, 40, 40), dtype=np.uint8))
    assert pretrain(data, tmp_path / "run", images={"pages": "channels"}) == 0
    assert config_of(tmp_path / "run")["images"]["channels"] == 5
    assert main(["embed", str(tmp_path / "run"), "--data", str(data), "--out", str(tmp_path / "e.parquet")]) == 0


@pytest.mark.parametrize("kind", ["bytes", "huggingface", "paths"])
def test_a_parquet_file(tmp_path: Path, kind: str) -> None:
    encoded = []
    for i in range(40):
        file = io.BytesIO()
        Image.fromarray(noise(i)).save(file, "PNG")
        encoded.append(file.getvalue())
    if kind == "paths":
        write_images(tmp_path / "images", 40)
    cells = {
        "bytes": encoded,
        "huggingface": [{"bytes": e, "path": None} for e in encoded],
        "paths": [f"images/{i:03}.png" for i in range(40)],
    }[kind]
    columns = {"image": cells, "label": [i % 2 for i in range(40)], "split": ["train"] * 30 + ["test"] * 10}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    assert pretrain(tmp_path / "set.parquet", tmp_path / "run") == 0
    looks = [f for f in metrics(tmp_path / "run") if "loss" not in f]
    assert all("knn_mean_patch" in f for f in looks)


def test_a_list(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 30)
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"images/{i:03}.png,{i % 2}\n" for i in range(30)))
    assert pretrain(tmp_path / "all.csv", tmp_path / "run") == 0


def test_real_photographs(tmp_path: Path, shared_data: Path) -> None:
    assert pretrain(shared_data / "photos", tmp_path / "run", images={"memory": 0.0, "workers": 1}) == 0
    assert "training on" in (tmp_path / "run" / "train.log").read_text()

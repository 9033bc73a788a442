"""From options to a run: what is chosen, what the user chose, what is refused."""

import re
from pathlib import Path

import pytest
import yaml

import maskery
from maskery.cli import main
from maskery.options import options
from tests.bad_input import BadInput, assert_refused, misused
from tests.test_train import TINY


def short(scene_folder: Path, out: Path, **leaves: object) -> list[str]:
    return ["pretrain", *options(TINY | {"data": str(scene_folder), "out": str(out), "steps": 2} | leaves)]


def test_config_yaml_is_the_run_and_goes_back_in(scene_folder: Path, tmp_path: Path) -> None:
    assert main(short(scene_folder, tmp_path / "a", image_size=(32, 48), crop={"flip": 0.0})) == 0
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["image_size"] == [32, 48]
    assert config["crop"]["flip"] == 0.0
    assert config["images"]["mean"] == [0.485, 0.456, 0.406]
    assert config["precision"] == "float32"
    assert Path(config["data"]).is_absolute()
    again = ["pretrain", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b"), "--seed", "3"]
    assert main(again) == 0
    other = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    assert other == config | {"seed": 3}


def test_what_the_user_chose_stays_and_the_rest_is_chosen_with_reasons(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--data", str(scene_folder), "--out", str(tmp_path / "run"), "--steps", "1", "--watch.looks", "0"]
    assert main(["pretrain", *args, "--patch-size", "16"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["patch_size"] == 16
    assert config["model"] == "vit-micro"
    said = capsys.readouterr().err
    assert "model vit-micro: " in said
    assert "patch size 4" not in said
    assert "model vit-micro: " in (tmp_path / "run" / "train.log").read_text()


def test_epochs_on_the_command_line_win_over_steps_in_a_config(scene_folder: Path, tmp_path: Path) -> None:
    assert main(short(scene_folder, tmp_path / "a")) == 0
    again = ["pretrain", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b"), "--epochs", "1"]
    assert main(again) == 0
    assert (tmp_path / "b" / "checkpoints" / "last").read_text() == "step-00000006\n"  # 100 images in batches of 16


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"data": "/nowhere/at/all"}, 1, "/nowhere/at/all: no such file or folder"),
        ({"model": "vit-smal"}, 2, "there is no model 'vit-smal'; did you mean vit-small?"),
        ({"method": "maee"}, 2, "there is no method 'maee'; did you mean mae?"),
        ({"recipe": "mae-bas"}, 2, "there is no recipe 'mae-bas'; did you mean mae-base?"),
        ({"image_size": 50}, 1, "image size 50 x 50 is not divisible by patch size 8"),
        ({"settings": {"mask_ratio": 0.99}}, 1, "mask ratio 0.99 leaves 0 of 16 patches visible"),
        ({"settings": {"mask_ratio": 0.0}}, 1, "mask ratio 0 leaves 16 of 16 patches visible"),
        ({"settings": {"mask_ration": 0.5}}, 2, "did you mean --settings.mask-ratio?"),
        ({"batch_size": 0}, 2, "--batch-size is 0: it has to be at least 1"),
        ({"micro_batch": 0}, 2, "--micro-batch is 0: it has to be at least 1"),
        ({"steps": 0, "epochs": 0}, 2, "one of them has to be above 0"),
        ({"steps": 0, "epochs": 5}, 2, "one of them has to be above 0"),
        ({"steps": 2, "epochs": -1}, 2, "one of them has to be above 0"),
        ({"crop": {"scale": (0.0, 1.0)}}, 2, "crop scale is (0.0, 1.0)"),
        ({"config": "/nowhere.yaml"}, 1, "/nowhere.yaml: no such file"),
        ({"init": "/nowhere"}, 1, "/nowhere: there is nothing"),
        ({"images": {"channels": 1, "mean": (0.5, 0.5)}}, 1, "images.mean has 2 numbers, the images have 1 channels"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, code: int, words: str
) -> None:
    out = tmp_path / "run"
    assert_refused(short(scene_folder, out, **change), BadInput(re.escape(words), code=code), capsys, out)


@pytest.mark.parametrize(("given", "missing"), [("--out", "--data"), ("--data", "--out")])
def test_missing_options(given: str, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["pretrain", given, "x"], misused(f"{missing} is missing"), capsys)


def test_a_run_that_exists_is_refused_and_survives(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(short(scene_folder, out)) == 0
    before = (out / "metrics.jsonl").read_bytes()
    assert_refused(short(scene_folder, out), BadInput(f"{out}: exists already; --overwrite replaces it"), capsys)
    assert main([*short(scene_folder, out, data="/nowhere"), "--overwrite"]) == 1  # bad data: the old run is kept
    assert (out / "metrics.jsonl").read_bytes() == before
    assert main([*short(scene_folder, out, seed=1), "--overwrite"]) == 0
    assert (out / "metrics.jsonl").read_bytes() != before
    other = tmp_path / "photos"
    other.mkdir()
    (other / "me.jpg").write_bytes(b"x")
    assert main([*short(scene_folder, other), "--overwrite"]) == 1
    assert (other / "me.jpg").exists()


@pytest.mark.parametrize("damage", ["seed: [", "", "method: rc-mea\n", "no_such_key: 3\n", "batch_size: many\n"])
def test_a_damaged_config_is_named_and_the_checkpoints_is_taken(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    out = tmp_path / "run"
    assert main(short(scene_folder, out)) == 0
    good = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(damage)
    assert main(["resume", str(out)]) == 0
    said = capsys.readouterr().err
    assert f"{out / 'config.yaml'}: " in said
    assert "step-00000002/config.yaml instead" in said
    assert (out / "config.yaml").read_text() == good
    (out / "config.yaml").write_text(damage)
    for checkpoint in (out / "checkpoints").glob("step-*"):
        (checkpoint / "config.yaml").unlink()
    assert main(["resume", str(out)]) == 1


def test_resuming_passes_over_a_damaged_checkpoint(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(short(scene_folder, out, steps=4, save={"every": 2})) == 0
    model = out / "checkpoints" / "step-00000004" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:5000])
    assert main(["resume", str(out)]) == 0
    said = capsys.readouterr().err
    assert "skipped a damaged checkpoint: step-00000004: model.safetensors has 5000 bytes" in said
    assert "resuming from step-00000002" in said


@pytest.mark.parametrize(("words", "shared"), [([], True), (["--no-shard"], False), (["--shard", "False"], False)])
def test_resuming_with_parameters_no_longer_shared_out(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], shared: bool
) -> None:
    out = tmp_path / "run"
    assert main(short(scene_folder, out)) == 0
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("shard: false", "shard: true"))
    assert main(["resume", str(out), *words]) == 0
    assert ("one process alone: parameters are not sharded" in capsys.readouterr().err) == shared
    assert f"shard: {str(shared).lower()}" in config.read_text()


def test_resuming_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["resume", str(tmp_path / "no")], BadInput("there is no such run"), capsys)
    assert_refused(["resume", str(tmp_path)], BadInput("config.yaml: no such file"), capsys)


def test_starting_from_weights(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tmp_path / "first"
    assert main(short(scene_folder, first)) == 0
    assert main(short(scene_folder, tmp_path / "second", init=str(first))) == 0
    assert f"started from {first}: loaded 98 of 98 tensors\n" in capsys.readouterr().err
    assert main(["export", str(first), "--to", "timm", "--out", str(tmp_path / "timm")]) == 0
    assert main(short(scene_folder, tmp_path / "third", init=str(tmp_path / "timm"))) == 0
    assert "; at random: decoder" in capsys.readouterr().err
    assert main(short(scene_folder, tmp_path / "fourth", init=str(first), model="vit-tiny")) == 1
    words = "its encoder is not the one of this run: width 128, 6 blocks, 4 heads; this run needs width 192"
    assert words in capsys.readouterr().err


def test_changed_images_are_noticed(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "images", tmp_path / "run"
    data.mkdir()
    files = sorted(scene_folder.rglob("*.png"))
    for i, file in enumerate(files[:40]):
        (data / f"{i}.png").write_bytes(file.read_bytes())
    maskery.pretrain(data=data, out=out, **TINY | {"steps": 2})
    (data / "99.png").write_bytes(files[50].read_bytes())
    capsys.readouterr()
    assert main(["resume", str(out)]) == 0
    assert "the training images have changed since this run began" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pretrain", "profile"])
def test_the_config_of_a_task_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("method: finetune\n")
    given = ["--config", str(tmp_path / "config.yaml"), "--data", str(tmp_path)]
    assert main([verb, *given, *(["--out", str(tmp_path / "run")] if verb == "pretrain" else [])]) == 2
    assert "a run of finetune, which learns from labels: `maskery eval finetune`" in capsys.readouterr().err

"""`eval segment`: it learns, goes on as if nothing had happened, stands beside random weights, and names bad masks."""

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.demo import scenes
from maskery.nn.vit import ViTConfig
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.segmentation.objective import Segment, SegmentConfig
from tests.test_train import assert_same_run, launched, metrics

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
QUICK = ["--images.workers", "0", "--no-overlap", "--watch.log-every", "4"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 scenes of 32 pixels, object or not."""
    return scenes.write_masks(tmp_path_factory.mktemp("pairs") / "d", 60, size=32, shapes=False)


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder after two steps: none of this is about how good it is."""
    out = tmp_path_factory.mktemp("run") / "run"
    tiny = {"model": "vit-micro", "patch_size": 8, "image_size": 32, "batch_size": 16, "watch": {"looks": 0}}
    settings = {"decoder": {"dim": 32, "depth": 1, "heads": 4}}
    maskery.pretrain(data=pairs / "images", out=out, steps=2, settings=settings, images={"workers": 0}, **tiny)
    return out


def result_of(member: Path) -> dict[str, Any]:
    return json.loads((member / "evals" / "result.json").read_text())


# --------------------------------------------------------------------------------------------------- it learns
@pytest.fixture(scope="module")
def learned(run: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    args = ["eval", "segment", str(run), "--data", str(pairs), "--out", str(out), *QUICK, "--steps", "40"]
    assert main([*args, "--batch-size", "8", "--watch.looks", "1", "--json", str(out.parent / "own.json")]) == 0
    return out


def test_training_beats_random_weights(learned: Path) -> None:
    member = learned / "end-seed0"
    looks = [json.loads(line) for line in (member / "metrics.jsonl").read_text().splitlines() if "miou" in line]
    assert [look["step"] for look in looks] == [0, 40]
    before, after = looks[0]["miou"], looks[-1]["miou"]
    assert before < 0.45  # one class everywhere gives 0.43
    assert after > before + 0.15
    found = result_of(member)
    assert found["numbers"]["miou"] == pytest.approx(after)  # all held-out images are few
    assert list(found["numbers"]) == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert [row["class"] for row in found["tables"]["classes"]] == ["background", "object"]
    assert all(re.fullmatch("#[0-9a-f]{6}", row["colour"]) for row in found["tables"]["classes"])
    assert found["counts"] == {"train": 43, "tune": 5, "held_out": 12, "classes": 2}
    assert "all-MLP decoder: 40 steps, batch 8" in found["protocol"]
    assert json.loads((learned.parent / "own.json").read_text())["numbers"] == found["numbers"]


def test_pictures_show_truth_and_prediction(learned: Path, pairs: Path) -> None:
    assert [p.name for p in sorted((learned / "end-seed0" / "samples").iterdir())] == [
        "step-00000000.png",
        "step-00000040.png",
    ]
    with Image.open(learned / "end-seed0" / "evals" / "segments.png") as picture:
        assert picture.size[0] > 3 * 320
        assert len(set(picture.convert("RGB").resize((60, 60)).get_flattened_data())) > 100


def test_a_segmenter_is_an_encoder_but_no_classifier(
    learned: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_token, patches = maskery.load(learned / "end-seed0")(torch.rand(1, 3, 32, 32))
    assert (class_token.shape, patches.shape) == ((1, 128), (1, 16, 128))
    assert main(["eval", "robustness", str(learned / "end-seed0"), "--data", str(pairs / "images")]) == 1
    assert "a run of segment, which classifies nothing" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- side by side
def test_beside_random_weights(run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "segment", str(run), "--data", str(pairs), "--out", str(tmp_path / "o"), *QUICK]
    args += ["--beside", "random", "--seeds", "2", "--steps", "2", "--batch-size", "4", "--watch.looks", "0"]
    args += ["--settings.head", "linear", "--settings.freeze", "--watch.best", "None", "--settings.labels.tune", "0"]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert re.search(r"random initialisation +the run's end\nmiou +\d", said)
    assert "linear head on a frozen encoder" in said
    members = {p.name for p in (tmp_path / "o").iterdir()}
    assert members == {"random-seed0", "random-seed1", "end-seed0", "end-seed1"}
    written = (tmp_path / "o" / "end-seed1" / "evals" / "result.json").stat().st_mtime_ns
    assert main(args) == 0  # what is finished is taken as it is
    assert capsys.readouterr().out == said
    assert (tmp_path / "o" / "end-seed1" / "evals" / "result.json").stat().st_mtime_ns == written


# ------------------------------------------------------------------------------------------------------- going on
@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_going_on_changes_nothing(head: str, run: Path, pairs: Path, tmp_path: Path) -> None:
    args = ["eval", "segment", str(run), "--data", str(pairs), "--out", str(tmp_path / "o"), *QUICK, "--steps", "6"]
    args += ["--batch-size", "4", "--micro-batch", "2", "--watch.looks", "2", "--save.every", "1", "--save.keep", "0"]
    args += ["--settings.head", head] + (["--settings.freeze"] if head == "linear" else ["--settings.width", "16"])
    args += ["--settings.labels.balanced", "--watch.held-out", "4", "--optim.base-lr", "0.1"]
    assert main(args) == 0
    whole, broken = tmp_path / "o" / "end-seed0", tmp_path / "broken"
    shutil.copytree(whole, broken)
    for later in (p for p in (broken / "checkpoints").glob("step-*") if int(p.name[5:]) > 2):
        shutil.rmtree(later)
    (broken / "checkpoints" / "last").write_text("step-00000002\n")
    maskery.resume(broken)
    assert_same_run(whole, broken)


def test_two_processes(run: Path, pairs: Path, tmp_path: Path) -> None:
    """Replicas stay the same (checked at every checkpoint), and what they learn is what one process learns."""
    args = ["eval", "segment", str(run), "--data", str(pairs), *QUICK, "--steps", "2", "--batch-size", "8"]
    args += ["--watch.looks", "1", "--watch.log-every", "1", "--settings.head", "linear", "--settings.freeze"]
    # Full views, nothing drawn: else each process means over the pixels that it has, and draws for itself.
    args += ["--settings.scale", "1", "1", "--settings.no-distortion", "--settings.dropout", "0"]
    launched(*args, "--out", str(tmp_path / "two"))
    assert main([*args, "--out", str(tmp_path / "one")]) == 0
    one, two = (metrics(tmp_path / name / "end-seed0") for name in ("one", "two"))
    assert one[1]["loss"] == pytest.approx(two[1]["loss"], rel=1e-4)
    assert one[-1]["miou"] == pytest.approx(two[-1]["miou"], abs=1e-3)
    assert (
        result_of(tmp_path / "two" / "end-seed0")["fingerprint"]
        == result_of(tmp_path / "one" / "end-seed0")["fingerprint"]
    )


# ------------------------------------------------------------------------------------------------------- bad input
def repaint(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    file = root / "masks" / "val" / name
    Image.fromarray(change(np.array(Image.open(file)))).save(file)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return scenes.write_masks(tmp_path / "few", 8, size=16, holdout=0.5)


def strange_value(root: Path) -> None:
    repaint(root, "scene-000006.png", lambda m: np.where(m == 0, 9, m).astype(np.uint8))


def other_size(root: Path) -> None:
    repaint(root, "scene-000006.png", lambda m: m[:12])


def one_class(root: Path) -> None:
    (root / "classes.txt").unlink()
    for file in root.glob("masks/*/*.png"):
        Image.fromarray(np.where(np.array(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)


def too_many(root: Path) -> None:
    (root / "classes.txt").unlink()
    for i, file in enumerate(root.glob("masks/*/*.png")):
        Image.fromarray((256 * i + np.arange(256)).reshape(16, 16).astype(np.uint16)).save(file)


def colour(root: Path) -> None:
    repaint(root, "scene-000006.png", lambda m: np.stack([m] * 3, 2))


@pytest.mark.parametrize(
    ("spoil", "more", "code", "said"),
    [
        (strange_value, [], 1, r"the mask of images/val/scene-000006\.png has the value 9: the 8 classes have values"),
        (other_size, [], 1, r"the mask of images/val/scene-000006\.png has 16 x 12 pixels, the image 16 x 16"),
        (one_class, [], 1, r"the value 0 beside void \(255\): there is nothing to tell apart; --settings.ignore-index"),
        (too_many, [], 1, r"the masks have 2,047 different values: values are classes, at most 1,000"),
        (colour, [], 1, r"the mask of images/val/scene-000006\.png is a picture of colours"),
        (lambda root: shutil.rmtree(root / "masks"), [], 1, "no images with masks: looked for images/ beside masks/"),
        (lambda root: shutil.rmtree(root / "masks" / "val"), [], 1, "4 training and 0 held-out images have masks"),
        (lambda root: None, ["--shots", "2"], 1, "--shots counts images of a class, and a mask has many"),
        (lambda root: None, ["--settings.inference", "half"], 2, "inference"),
        (lambda root: None, ["--quick"], 2, "segment has no quick form"),
    ],
)
def test_masks_that_cannot_be_learned_from(
    spoil: Callable[[Path], object],
    more: list[str],
    code: int,
    said: str,
    run: Path,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(few)
    assert main(["eval", "segment", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *more]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, error), error
    assert error.startswith("maskery: ")
    assert not (tmp_path / "o").exists()


def test_data_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "segment", str(run)]) == 2
    assert "--data is missing: images with masks" in capsys.readouterr().err


def opened_as(root: Path, **settings: Any) -> tuple[Any, Any]:
    from maskery.config import ImagesConfig
    from maskery.data.dataset import open_data
    from maskery.terminal import Quiet

    data = open_data(str(root), ImagesConfig(masks=True, memory=0.0), (16, 16), Quiet())
    return Segment.prepare(SegmentConfig(**settings), data)


def test_a_test_split_beside_a_val_split_is_held_out_where_it_has_masks(few: Path) -> None:
    for i, kind in itertools.product((6, 7), ("images", "masks")):
        (few / kind / "test").mkdir(exist_ok=True)
        (few / kind / "val" / f"scene-{i:06d}.png").rename(few / kind / "test" / f"scene-{i:06d}.png")
    _, data = opened_as(few)
    names = data.images.source.names
    assert {names[i].split("/")[1] for i in data.held_out.tolist()} == {"test"}
    assert {names[i].split("/")[1] for i in data.validation.tolist()} == {"val"}
    shutil.rmtree(few / "masks" / "test")
    _, data = opened_as(few)
    assert {names[i].split("/")[1] for i in data.held_out.tolist()} == {"val"}
    assert len(data.validation) == 0


def test_foreground_of_255(few: Path) -> None:
    one_class(few)
    settings, _ = opened_as(few, ignore_index=None)
    assert (settings.labels.names, settings.ids) == (("0", "255"), (0, 255))


def test_another_void_and_classes_without_names(few: Path) -> None:
    (few / "classes.txt").unlink()
    settings, _ = opened_as(few, ignore_index=3)
    assert "3" not in settings.labels.names
    assert settings.labels.names[:3] == ("0", "1", "2")


@pytest.mark.parametrize("layout", ["as asked for", "ade20k"])
def test_classes_that_count_from_one(layout: str, few: Path) -> None:
    (few / "classes.txt").write_text("\n".join(scenes.SHAPES))
    if layout == "ade20k":
        for kind in ("images", "masks"):
            (few / kind / "train").rename(few / kind / "training")
            (few / kind / "val").rename(few / kind / "validation")
        (few / "masks").rename(few / "annotations")
    settings, data = opened_as(few, reduce_zero_label="auto" if layout == "ade20k" else "on")
    assert settings.ids == (1, 2, 3, 4, 5, 6, 7)
    label = Segment(settings, VIT).picture_targets(data, data.held_out)["label"]
    mask = scenes.scene(0, int(data.held_out[0]), 16).mask
    shown = np.kron(mask, np.ones((2, 2), int))
    assert label[0].tolist() == (shown.astype(int) - 1).tolist()  # 0 is void, and that is -1


def test_another_mask_is_another_evaluation(run: Path, few: Path, tmp_path: Path) -> None:
    args = ["eval", "segment", str(run), "--data", str(few), *QUICK, "--steps", "1", "--watch.looks", "0"]
    assert main([*args, "--out", str(tmp_path / "a")]) == 0
    repaint(
        few,
        "scene-000006.png",
        lambda m: np.where(np.arange(m.size).reshape(m.shape) == 5, 1 - (m > 0), m).astype(np.uint8),
    )
    assert main([*args, "--out", str(tmp_path / "b")]) == 0
    a, b = (result_of(tmp_path / name / "end-seed0")["fingerprint"] for name in "ab")
    assert a != b


def test_images_without_masks_are_left_out_and_counted(few: Path) -> None:
    (few / "masks" / "train" / "scene-000001.png").unlink()
    _, data = opened_as(few)
    assert len(data.train) == 3
    assert "1 images have no mask and are left out" in data.images.source.notes
    _, data = opened_as(few, labels=LabelsConfig(share="50%", draw=1))
    assert len(data.train) == 2


def test_the_street_scenes(shared_data: Path) -> None:
    from maskery.config import ImagesConfig
    from maskery.data.dataset import open_data
    from maskery.terminal import Quiet

    where = shared_data / "camvid_240x180.parquet"
    data = open_data(str(where), ImagesConfig(masks=True, memory=0.0), (180, 240), Quiet())
    settings, data = Segment.prepare(SegmentConfig(ignore_index=11), data)
    assert settings.ids == tuple(range(11))
    assert (len(data.train), len(data.held_out)) == (367, 101)


# -------------------------------------------------------------------------------------------------------- the page
def test_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in order, shortened by options at their end; the settings it names exist."""
    text = (Path(__file__).parents[3] / "docs" / "segmentation.md").read_text()
    python = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).splitlines()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    names: dict[str, Any] = {}
    exec(python[0], names)
    short = [*QUICK, "--steps", "1", "--watch.looks", "1", "--watch.held-out", "2", "--batch-size", "2"]
    for words in [shlex.split(command.partition("#")[0]) for command in commands]:
        less = ["--seeds", "1"] if "--seeds" in words else []
        assert main([*words[1:], *short, *less]) == 0, words
    assert len(commands) == 4
    exec(python[1], names)
    assert names["logits"].shape == (2, 8, 32, 32)
    known = {f.name.replace("_", "-") for f in fields(SegmentConfig)}
    assert set(re.findall(r"--settings\.(?:no-)?([a-z-]+)", text)) <= known

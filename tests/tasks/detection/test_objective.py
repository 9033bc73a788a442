"""`eval detect`: it learns, goes on as if nothing had happened, stands beside random weights, and names bad data."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.config import ImagesConfig, Run
from maskery.data.dataset import open_data
from maskery.data.object_targets import ObjectTargets
from maskery.demo.coco import write_coco
from maskery.microbatch import slice_batch
from maskery.nn.vit import ViTConfig
from maskery.pictures.objects import outlined
from maskery.pictures.segments import colours
from maskery.tasks.detection import targets
from maskery.tasks.detection.objective import Detect, DetectConfig
from maskery.tasks.detection.recipe import detection_recipe
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.small_data import LabelledData
from maskery.terminal import Quiet
from tests.test_train import assert_same_run

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
NAMES = LabelsConfig(classes='["disc", "moon", "star"]')
QUICK = ["--images.workers", "0", "--no-overlap", "--watch.log-every", "4"]
SMALL = ["--settings.width", "16", "--settings.rois", "16", "--watch.best", "None", "--settings.labels.tune", "0"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scenes of 64 pixels, all objects of one class."""
    return write_coco(tmp_path_factory.mktemp("coco") / "c", 40, size=64, shapes=False)


@pytest.fixture(scope="module")
def run(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder after two steps: none of this is about how good it is."""
    out = tmp_path_factory.mktemp("run") / "run"
    tiny = {"model": "vit-micro", "patch_size": 8, "image_size": 64, "batch_size": 16, "watch": {"looks": 0}}
    settings = {"decoder": {"dim": 32, "depth": 1, "heads": 4}}
    maskery.pretrain(data=coco, out=out, steps=2, settings=settings, images={"workers": 0}, **tiny)
    return out


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Six scenes of 32 pixels, classes by shape, which a test may spoil."""
    return write_coco(tmp_path / "few", 6, size=32, holdout=0.34)


# --------------------------------------------------------------------------------------------------- it learns
@pytest.fixture(scope="module")
def learned(run: Path, coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    args = ["eval", "detect", str(run), "--data", str(coco), "--out", str(out), *QUICK, *SMALL, "--steps", "90"]
    args += ["--settings.width", "32", "--settings.rois", "32", "--settings.scale", "1", "1"]
    args += ["--batch-size", "4", "--watch.looks", "1", "--optim.base-lr", "0.096", "--settings.layer-decay", "1"]
    args += ["--optim.min-lr", "0.0003", "--settings.drop-path", "0"]
    assert main([*args, "--json", str(out.parent / "own.json")]) == 0
    return out


def test_training_beats_random_weights(learned: Path) -> None:
    member = learned / "end-seed0"
    looks = [json.loads(line) for line in (member / "metrics.jsonl").read_text().splitlines() if "box_ap50" in line]
    assert [look["step"] for look in looks] == [0, 90]
    assert looks[0]["box_ap50"] < 0.1
    assert looks[-1]["box_ap50"] > looks[0]["box_ap50"] + 0.12
    assert looks[-1]["mask_ap50"] > looks[0]["mask_ap50"] + 0.08
    found = json.loads((member / "evals" / "result.json").read_text())
    assert found["numbers"]["box_ap50"] == pytest.approx(looks[-1]["box_ap50"])  # all held-out images are few
    assert list(found["numbers"])[:3] == ["box_ap", "box_ap50", "box_ap75"]
    assert {"mask_ap", "mask_ap_small", "box_recall"} <= set(found["numbers"])
    assert [row["class"] for row in found["tables"]["classes"]] == ["object"]
    assert found["tables"]["classes"][0]["box_ap"] == pytest.approx(found["numbers"]["box_ap"])
    assert found["counts"] == {"train": 32, "tune": 0, "held_out": 8, "classes": 1}
    assert "Mask R-CNN on the simple feature pyramid: 90 steps" in found["protocol"]
    assert json.loads((learned.parent / "own.json").read_text())["numbers"] == found["numbers"]


def test_pictures_show_truth_and_prediction(learned: Path) -> None:
    member = learned / "end-seed0"
    assert sorted(p.name for p in (member / "samples").iterdir()) == ["step-00000000.png", "step-00000090.png"]
    with Image.open(member / "evals" / "detections.png") as picture:
        assert picture.size[0] > 3 * 160
        shade = tuple((colours(1)[0] * 255).round().int().tolist())
        pixels = np.array(picture.convert("RGB")).astype(int)
        assert (abs(pixels - shade).max(2) <= 1).sum() > 100  # boxes are drawn


def test_a_detector_is_an_encoder_but_no_classifier(
    learned: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_token, patches = maskery.load(learned / "end-seed0")(torch.rand(1, 3, 64, 64))
    assert (class_token.shape, patches.shape) == ((1, 128), (1, 64, 128))
    assert main(["eval", "robustness", str(learned / "end-seed0"), "--data", str(coco)]) == 1
    assert "a run of detect, which classifies nothing" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- side by side
def test_beside_random_weights(run: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "detect", str(run), "--data", str(coco), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    args += ["--beside", "random", "--seeds", "2", "--steps", "1", "--batch-size", "2", "--watch.looks", "0"]
    args += ["--settings.freeze", "--settings.masks", "off"]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert re.search(r"random initialisation +the run's end\nbox ap +\d", said)
    assert "Faster R-CNN on the simple feature pyramid of a frozen encoder" in said
    assert "mask ap" not in said
    members = {p.name for p in (tmp_path / "o").iterdir()}
    assert members == {"random-seed0", "random-seed1", "end-seed0", "end-seed1"}
    assert main(args) == 0  # what is finished is taken as it is
    assert capsys.readouterr().out == said


# ------------------------------------------------------------------------------------------------------- going on
@pytest.mark.parametrize("how", ["whole", "frozen"])
def test_going_on_changes_nothing(how: str, run: Path, coco: Path, tmp_path: Path) -> None:
    args = ["eval", "detect", str(run), "--data", str(coco), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    args += ["--steps", "4", "--batch-size", "4", "--micro-batch", "2", "--watch.looks", "2", "--watch.held-out", "2"]
    args += ["--save.every", "1", "--save.keep", "0", "--optim.base-lr", "0.02"]
    args += ["--settings.freeze"] if how == "frozen" else ["--settings.window", "3", "--settings.global-blocks", "2"]
    assert main(args) == 0
    whole, broken = tmp_path / "o" / "end-seed0", tmp_path / "broken"
    shutil.copytree(whole, broken)
    for later in (p for p in (broken / "checkpoints").glob("step-*") if int(p.name[5:]) > 2):
        shutil.rmtree(later)
    (broken / "checkpoints" / "last").write_text("step-00000002\n")
    maskery.resume(broken)
    assert_same_run(whole, broken)


# ------------------------------------------------------------------------------------------------------- the objective
def built(**settings: Any) -> Detect:
    torch.manual_seed(0)
    return Detect(DetectConfig(**{"labels": NAMES, "width": 16, "rois": 16} | settings), VIT).train()


def batch_of(n: int = 4) -> dict[str, Any]:
    torch.manual_seed(3)
    image = torch.rand(n, 3, 32, 32)
    return {"image": image, "label": targets.grid_of_squares(image, True)}


def test_the_loss_is_the_sum_of_its_parts() -> None:
    losses = built()(batch_of(), 0.0)
    assert set(losses) == {"loss", "objectness", "proposals", "classes", "boxes", "masks"}
    total = sum(float(value) for name, value in losses.items() if name != "loss")
    assert losses["loss"].item() == pytest.approx(total)
    assert "masks" not in built(masks="off")(batch_of(), 0.0)


def test_losses_of_micro_batches_are_those_of_the_batch() -> None:
    """But for the mean over what is sampled: images here have all that is asked for."""
    task = built(drop_path=0.0)
    drawn = task.sample(batch_of(), 0.0)
    whole = task(drawn, 0.0)
    parts = [task(slice_batch(drawn, start, 2), 0.0) for start in (0, 2)]
    for name in ("objectness", "classes"):
        assert float(sum(p[name] for p in parts)) / 2 == pytest.approx(float(whole[name]), rel=0.02)


def test_images_without_objects_are_learned_from() -> None:
    task, batch = built(), batch_of()
    batch["label"] = ObjectTargets.stack([targets.no_objects((32, 32))] * 4, (32, 32), True)
    losses = task(batch, 0.0)
    assert float(losses["objectness"]) > 0
    assert float(losses["masks"]) == float(losses["boxes"]) == 0
    losses["loss"].backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)  # as processes have to agree on


def test_nothing_is_found_beyond_the_image() -> None:
    task, image = built().eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for answer in task.detect(image, torch.tensor([[16, 24], [32, 8]])):
            assert set(answer) == {"boxes", "classes", "scores", "masks"}
        first, second = task.detect(image, torch.tensor([[16, 24], [32, 8]]))
    for answer, (h, w) in ((first, (16, 24)), (second, (32, 8))):
        assert len(answer["boxes"]) > 0
        assert (answer["boxes"] <= torch.tensor([w, h, w, h])).all()
        assert ((answer["classes"] >= 0) & (answer["classes"] < 3)).all()
        assert (answer["scores"].diff() <= 0).all()


def test_other_sizes_than_the_configured_one() -> None:
    with torch.no_grad():
        assert len(built(window=3, global_blocks=1).eval().detect(torch.rand(1, 3, 48, 64))) == 1


def test_frozen_encoders_stay_and_windows_need_no_class_token() -> None:
    task = built(freeze=True)
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not task.encoder.training
    assert not built(window=2, global_blocks=1).encoder.cls_token.requires_grad
    assert built().encoder.cls_token.requires_grad


def test_precision_of_coordinates_in_bfloat16() -> None:
    task, batch = built(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch, 0.0)
        answers = task.eval().detect(batch["image"])
    assert losses["loss"].dtype == torch.float32
    assert answers[0]["boxes"].dtype == torch.float32


def test_outlines() -> None:
    boxes, masks = torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.zeros(1, 10, 10)
    masks[0, 3:7, 3:7] = 1
    shown = outlined(torch.zeros(3, 10, 10), boxes, torch.tensor([0]), 1, masks, line=1)
    assert torch.equal(shown[:, 2, 2], colours(1)[0])
    assert torch.equal(shown[:, 3, 3], colours(1)[0])  # the mask's edge
    assert torch.allclose(shown[:, 5, 5], 0.4 * colours(1)[0])
    assert not shown[:, 0].any()
    assert outlined(torch.rand(1, 10, 10), boxes, torch.tensor([0]), 1).shape == (3, 10, 10)


# --------------------------------------------------------------------------------------------------------- bad input
def change(root: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    for file in root.glob("annotations/*.json"):
        tree = json.loads(file.read_text())
        edit(tree)
        file.write_text(json.dumps(tree))


def without_shapes(root: Path) -> None:
    change(root, lambda tree: [a.pop("segmentation") for a in tree["annotations"]])


@pytest.mark.parametrize(
    ("spoil", "more", "code", "said"),
    [
        (lambda root: shutil.rmtree(root / "annotations"), [], 1, r"no objects: looked for annotations/instances_tr"),
        (lambda root: shutil.rmtree(root / "train"), [], 1, r"0 training|is held out|none is left to train on"),
        (lambda root: change(root, lambda t: t["annotations"].clear()), [], 1, "no object in any of the 4 training"),
        (without_shapes, ["--settings.masks", "on"], 1, r"\d+ objects have only a box, and --settings.masks on wants"),
        (lambda root: None, ["--shots", "2"], 1, "--shots counts images of a class, and there are many in one"),
        (lambda root: None, ["--settings.scale", "2", "1"], 1, r"--settings.scale is \(2.0, 1.0\)"),
        (lambda root: None, ["--settings.window", "3", "--settings.global-blocks", "99"], 1, "global-blocks is 99"),
        (lambda root: None, ["--settings.labels.balanced"], 1, "detection has no such loss"),
        (lambda root: None, ["--settings.masks", "maybe"], 2, "masks"),
        (lambda root: None, ["--quick"], 2, "detect has no quick form"),
    ],
)
def test_data_that_cannot_be_learned_from(
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
    assert main(["eval", "detect", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *more]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, error), error
    assert error.startswith("maskery: ")
    assert not (tmp_path / "o").exists()


def test_data_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "detect", str(run)]) == 2
    assert "--data is missing: images with objects" in capsys.readouterr().err


def test_boxes_alone_are_enough(few: Path) -> None:
    without_shapes(few)
    data = open_data(str(few), ImagesConfig(objects=True, memory=0.0), (32, 32), Quiet())
    settings, data = Detect.prepare(DetectConfig(width=16, rois=16), data)
    assert settings.masks == "off"
    assert len(data.train) == 4
    task = Detect(settings, VIT).eval()
    assert set(task.validate(data, 2, torch.float32, 0)) == {"box_ap", "box_ap50"}
    assert task.picture_targets(data, data.held_out)["label"].bits.shape[2] == 0
    settings, data = Detect.prepare(DetectConfig(labels=LabelsConfig(share="50%", draw=1)), replace(data))
    assert len(data.train) == 2


def test_truth_is_cut_as_pictures_are(few: Path) -> None:
    data = open_data(str(few), ImagesConfig(objects=True, memory=0.0), (32, 32), Quiet())
    settings, data = Detect.prepare(DetectConfig(width=16, rois=16), data)
    label = Detect(settings, VIT).picture_targets(data, data.held_out)["label"]
    boxes = data.images.source.objects(int(data.held_out[0])).boxes  # type: ignore[attr-defined]
    assert label.boxes[0, : len(boxes)].tolist() == boxes.tolist()


# -------------------------------------------------------------------------------------------------------- recipes
def test_recipes() -> None:
    start = Run(settings=DetectConfig(), model="vit-base")
    large = detection_recipe(start, LabelledData(117_266)).run
    assert large.image_size == 1024
    assert (large.batch_size, large.epochs, large.lr) == (64, 100.0, pytest.approx(1e-4))
    assert large.optim.warmup * large.total_steps(117_266) == pytest.approx(250, rel=0.01)
    assert (large.settings.window, large.settings.scale, large.settings.rois) == (14, (0.1, 2.0), 512)
    huge = detection_recipe(replace(start, model="vit-huge", patch_size=14), LabelledData(117_266)).run
    assert (huge.image_size, huge.epochs, huge.settings.layer_decay) == (1022, 75.0, 0.9)
    small = detection_recipe(start, LabelledData(100)).run
    assert (small.image_size, small.batch_size, small.lr) == (224, 4, pytest.approx(2e-4))
    assert small.watch.best == "tune_box_ap"
    assert detection_recipe(
        replace(start, settings=DetectConfig(freeze=True)), LabelledData(100)
    ).run.lr == pytest.approx(1e-3)


# -------------------------------------------------------------------------------------------------------- the page
def test_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in order, shortened by options at their end; the settings it names exist."""
    text = (Path(__file__).parents[3] / "docs" / "detection.md").read_text()
    python = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).splitlines()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    names: dict[str, Any] = {}
    exec(python[0], names)
    short = [*QUICK, *SMALL, "--steps", "1", "--watch.looks", "0", "--batch-size", "2"]
    commands = [shlex.split(line.partition("#")[0]) for line in lines if line.startswith("maskery ")]
    for words in commands:
        less = ["--seeds", "1"] if "--seeds" in words else []
        assert main([*words[1:], *short, *less]) == 0, words
    assert len(commands) == 5
    exec(python[1], names)
    assert set(names["found"]) == {"boxes", "classes", "scores", "masks"}
    known = {f.name.replace("_", "-") for f in fields(DetectConfig)}
    assert set(re.findall(r"--settings\.(?:no-)?([a-z-]+)", text)) <= known

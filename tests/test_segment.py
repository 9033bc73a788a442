"""`eval segment`: it learns, goes on as if nothing had happened, stands beside random weights, and names bad masks."""

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
import torch.nn.functional as F
from PIL import Image

import maskery
from maskery.cli import main
from maskery.data import scenes
from maskery.data.masks import VOID
from maskery.nn.vit import ViTConfig
from maskery.report.segments import colours, painted
from maskery.tasks import pixels
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.segment import Segment, SegmentConfig, depths_of
from maskery.tasks.segmented import scaled, together
from tests.test_train import assert_same_run

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
NAMES = LabelsConfig(classes='["ground", "moon", "star"]')
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


# ------------------------------------------------------------------------------------------------------- the objective
def built(**settings: Any) -> Segment:
    torch.manual_seed(0)
    return Segment(SegmentConfig(**{"labels": NAMES, "width": 16} | settings), VIT).train()


def batch_of(n: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {"image": torch.rand(n, 3, 32, 32), "label": torch.randint(VOID, 3, (n, 32, 32)).short()}


@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 3.0)])
def test_the_loss_by_hand(weights: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(2, 3, 4, 4), torch.randint(VOID, 3, (2, 8, 8))
    enlarged, total = F.interpolate(logits, (8, 8), mode="bilinear"), 0.0
    for b, row, column in np.ndindex(2, 8, 8):
        c = int(y[b, row, column])
        if c != VOID:
            own = -torch.log_softmax(enlarged[b, :, row, column], 0)[c]
            total += float(own) * (weights[c] if weights else 1.0) / y.numel()
    found = pixels.loss(logits, y, replace(NAMES, weights=weights))
    assert float(found) == pytest.approx(total, rel=1e-5)
    halves = [float(pixels.loss(logits[i : i + 1], y[i : i + 1], replace(NAMES, weights=weights))) for i in (0, 1)]
    assert float(found) == pytest.approx(sum(halves) / 2, rel=1e-5)  # micro-batches
    assert float(pixels.loss(logits, torch.full_like(y, VOID), NAMES)) == 0


def test_the_auxiliary_loss_is_a_part_of_the_loss() -> None:
    objective, without = built(), built(auxiliary=0.0)
    drawn = objective.draw(batch_of(), 0.0)
    losses = objective(drawn, 0.0)
    logits, _ = objective.logits(drawn)
    assert float(losses["loss"].detach() - 0.4 * losses["auxiliary"]) == pytest.approx(
        float(pixels.loss(logits, drawn["y"], NAMES).detach()), rel=1e-5
    )
    assert without(batch_of(), 0.0).keys() == {"loss"}


def test_a_frozen_encoder_stays_and_its_features_are_normalised() -> None:
    objective = built(head="linear", freeze=True)
    trainable = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trainable == {"classifier.weight", "classifier.bias"}
    drawn = objective.draw(batch_of(), 0.0)
    h = drawn["features"].flatten(0, 2)  # [B N, D]
    torch.testing.assert_close(h.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.var(0, unbiased=False), torch.ones(48), atol=1e-3, rtol=0)
    objective.config = replace(objective.config, distortion=False, dropout=0.0)
    for _ in range(120):  # the same batch again and again: the running averages come to it
        objective.draw(batch_of(), 0.0)
        objective.after_step(0.0)
    trained, _ = objective.logits(objective.draw(batch_of(), 0.0))
    measured, _ = objective.eval().logits(batch_of())
    torch.testing.assert_close(measured, trained, atol=2e-3, rtol=0)


def test_blocks_that_nothing_looks_at_do_not_learn() -> None:
    objective = built(depths=(1, 1, 1, 1))
    objective(batch_of(), 0.0)["loss"].backward()
    assert not any(p.requires_grad for p in objective.encoder.blocks[1].parameters())
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


@pytest.mark.parametrize("head", ["mlp", "upernet"])
def test_any_head_may_be_all_that_learns(head: str) -> None:
    objective = built(head=head, freeze=True)
    objective(batch_of(), 0.0)["loss"].backward()
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert all(p.grad is not None for name, p in objective.named_parameters() if p.requires_grad)


def test_layer_decay_and_what_is_not_decayed() -> None:
    objective = built(layer_decay=0.5)
    rates = {name: objective.lr_scale(name) for name, _ in objective.named_parameters()}
    assert rates["encoder.patch_embed.proj.weight"] == rates["encoder.pos_embed"] == 0.125
    assert rates["encoder.blocks.0.norm1.weight"] == 0.25
    assert rates["encoder.blocks.1.norm1.weight"] == 0.5
    assert {rate for name, rate in rates.items() if not name.startswith("encoder.")} == {1.0}
    assert not objective.decays("encoder.pos_embed", objective.encoder.pos_embed)


def test_depths() -> None:
    assert [depths_of(None, n) for n in (12, 24, 6, 2, 1)] == [
        (4, 6, 8, 12),  # mmsegmentation's 3, 5, 7, 11, which count from 0
        (8, 12, 16, 24),
        (2, 3, 4, 6),
        (1, 1, 1, 2),
        (1, 1, 1, 1),
    ]
    for wrong in ((1, 2, 3, 4), (0, 1, 1, 2), (2, 1, 1, 1)):
        with pytest.raises(ValueError, match="this encoder has 2 blocks"):
            depths_of(wrong, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": 1.0}, "--settings.dropout is 1.0: between 0 and 1"),
        ({"layer_decay": 0.0}, "--settings.freeze does that"),
        ({"head": "mlp", "width": 18}, "--settings.width is 18: a multiple of 4"),
        ({"scale": (2.0, 0.5)}, "--settings.scale is"),
        ({"cat_max_ratio": 0.0}, "--settings.cat-max-ratio is 0.0"),
        ({"ignore_index": -1}, "--settings.ignore-index is -1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        built(**settings)


def test_rare_classes_weigh_more() -> None:
    counts = np.array([800, 100, 100, 0])
    found = np.array(pixels.weights(counts))
    assert (found * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-5)
    assert found[1] / found[0] == pytest.approx(8, rel=1e-4)
    assert found[3] == 0
    common, rare = pixels.weights(np.array([10**6, 1]))
    assert rare / common == pytest.approx(20, rel=1e-4)  # 10 to a half


def test_overlays() -> None:
    image, mask = torch.full((1, 3, 2, 2), 0.5), torch.tensor([[[0, 1], [2, VOID]]])
    found, palette = painted(image, mask, 3), colours(3)
    assert torch.allclose(found[0, :, 0, 1], 0.2 + 0.6 * palette[1])
    assert found[0, :, 1, 1].tolist() == pytest.approx([0.2] * 3)
    assert painted(torch.rand(2, 5, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), 3).shape == (2, 3, 4, 4)
    assert len(set(map(tuple, colours(150).tolist()))) == 150
    tall, wide = scaled(torch.zeros(1, 3, 20, 10)), scaled(torch.zeros(1, 3, 5, 10))
    both = together([tall, wide])
    assert both.shape == (2, 3, 320, 320)
    assert both[0, 0].sum(0).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80
    assert both[1, 0].sum(1).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80


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
    from maskery.log import Quiet

    data = open_data(str(root), ImagesConfig(masks=True, memory=0.0), (16, 16), Quiet())
    return Segment.prepared(SegmentConfig(**settings), data)


def test_foreground_of_255(few: Path) -> None:
    one_class(few)
    settings, _ = opened_as(few, ignore_index=None)
    assert (settings.labels.names, settings.ids) == (("0", "255"), (0, 255))


def test_another_void_and_classes_without_names(few: Path) -> None:
    (few / "classes.txt").unlink()
    settings, _ = opened_as(few, ignore_index=3)
    assert "3" not in settings.labels.names
    assert settings.labels.names[:3] == ("0", "1", "2")


def test_classes_that_count_from_one(few: Path) -> None:
    (few / "classes.txt").write_text("\n".join(scenes.SHAPES))
    settings, data = opened_as(few, reduce_zero_label=True)
    assert settings.ids == (1, 2, 3, 4, 5, 6, 7)
    label = Segment(settings, VIT).truth(data, data.held_out)["label"]
    mask = scenes.scene(0, int(data.held_out[0]), 16).mask
    shown = np.kron(mask, np.ones((2, 2), int))
    assert label[0].tolist() == (shown.astype(int) - 1).tolist()  # 0 is void, and that is -1


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
    from maskery.log import Quiet

    where = shared_data / "camvid_240x180.parquet"
    data = open_data(str(where), ImagesConfig(masks=True, memory=0.0), (180, 240), Quiet())
    settings, data = Segment.prepared(SegmentConfig(ignore_index=11), data)
    assert settings.ids == tuple(range(11))
    assert (len(data.train), len(data.held_out)) == (367, 101)


# -------------------------------------------------------------------------------------------------------- the page
def test_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in order, shortened by options at their end; the settings it names exist."""
    text = (Path(__file__).parents[1] / "docs" / "segmentation.md").read_text()
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

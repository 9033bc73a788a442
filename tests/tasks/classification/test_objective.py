from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.data.crops import CenterCrop
from maskery.evals.classify import image_logits
from maskery.evals.eval_pass import DEFAULTS, EvalPass
from maskery.tasks import TASKS
from maskery.tasks.classification.objective import ClassificationObjective
from maskery.tasks.labels import LabelsConfig
from tests.test_train import assert_same_run, metrics, weights

from ..evaluation import cut_off
from ..images import several, two_colours
from ..runs import VIT, done, opened

SETTINGS: dict[str, dict[str, Any]] = {
    "probe": {"lrs": (1.0, 3.0), "pooling": "both"},
    "finetune": {"average": 0.5, "drop_path": 0.3},
}


def built(kind: str, **settings: Any) -> ClassificationObjective:
    torch.manual_seed(0)
    task = TASKS[kind](TASKS[kind].Config(**{"eval_share": 1.0} | settings), VIT)
    assert isinstance(task, ClassificationObjective)
    return task.train()


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_going_on_changes_nothing(colours: Path, tmp_path: Path, kind: str) -> None:
    """3 + 5 steps, in micro-batches, are 8 steps: statistics, averages and several heads are saved."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done(kind, colours, whole, settings=SETTINGS[kind], micro_batch=4, labels={"tune": 0.2})
    cut_off(whole, broken, 3)
    assert maskery.resume(broken).step == 8
    assert_same_run(whole, broken)
    assert len(list((whole / "samples").iterdir())) == 5
    last = metrics(whole)[-1]
    assert {"top1", "held_out_loss", "tune_top1"} <= last.keys()
    assert ("tune_top1_lr_3" in last) == (kind == "probe")


def test_the_probe_of_a_run_leaves_the_encoder_as_it_was(colours: Path, tmp_path: Path) -> None:
    done("probe", colours, tmp_path / "run", steps=3, watch={"looks": 0})
    first, last = (tmp_path / "run" / "checkpoints" / f"step-0000000{s}" for s in (1, 3))
    one, other = (maskery.load(place).state_dict() for place in (first, last))
    assert all(torch.equal(t, other[name]) for name, t in one.items())
    moved = weights(tmp_path / "run")
    assert float(moved["heads.0.bias"].abs().max()) > 0
    assert float(moved["mean"].abs().max()) > 0


def test_answers_of_every_head_and_what_could_not_be_read(tmp_path: Path) -> None:
    folder = two_colours(tmp_path / "images", {"train": 6, "val": 20})
    (folder / "val" / "red" / "003.png").write_bytes(b"no image")
    data = opened(folder)
    task = built("probe", labels=LabelsConfig(classes='["blue", "red"]'), lrs=(1.0, 2.0))
    found = task.predict(data, data.held_out)
    assert (len(found.logits), len(found.indices), found.skipped) == (2, 39, 1)
    assert found.truth.tolist() == [0] * 20 + [1] * 19
    assert task.training
    assert not task.encoder.training
    image = torch.from_numpy(np.array(Image.open(folder / "val" / "blue" / "005.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(torch.stack(found.logits)[:, 5], task.eval().classify(image[None])[0])


def test_what_the_cut_keeps_is_as_the_settings_say(colours: Path) -> None:
    data = opened(colours)
    task = built("finetune", labels=LabelsConfig(classes='["blue", "red"]'), eval_share=0.75)
    torch.nn.init.normal_(task.head.weight)
    found = task.predict(data, data.held_out)
    crops = EvalPass.of(data.images, data.held_out, CenterCrop((32, 32), 0.75), DEFAULTS)
    expected = image_logits(task.eval().classify, crops)
    torch.testing.assert_close(found.logits[0], expected[:, 0])


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_without_a_part_to_choose_by_a_look_has_two_numbers(colours: Path, kind: str) -> None:
    data = opened(colours)
    settings, data = TASKS[kind].prepare(TASKS[kind].Config(labels=LabelsConfig(balanced=True)), data)
    torch.manual_seed(0)
    numbers = TASKS[kind](settings, VIT).validate(data, 100, torch.float32, 0)
    assert numbers.keys() == {"top1", "held_out_loss"}
    assert 0.5 < numbers["held_out_loss"] < 0.9
    few = TASKS[kind](settings, VIT).validate(data, 3, torch.float32, 0)
    assert few["top1"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_several_labels_an_image_are_looked_at_by_map(tmp_path: Path, kind: str) -> None:
    out = done(kind, several(tmp_path), tmp_path / "run", steps=2, watch={"looks": 1}, labels={"tune": 0.25})
    assert all({"map", "tune_map", "held_out_loss"} <= look.keys() for look in out.looks)
    assert out.looks[0]["held_out_loss"] == pytest.approx(0.69, abs=0.1)
    assert (tmp_path / "run" / "samples" / "step-00000002.png").exists()

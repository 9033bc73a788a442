"""A trained classifier as others use it: the best checkpoint, the chosen head, and what is none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import maskery
from maskery.tasks.classification.load import CHOSEN, load_classifier
from tests.test_train import TINY

from ..runs import done


def test_the_best_checkpoint_answers(colours: Path, tmp_path: Path) -> None:
    done("finetune", colours, tmp_path, steps=4, keep=1, watch={"best": "top1"}, optim={"base_lr": 0.0})
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best", "step-00000004", "last"}
    best, last = (
        load_file(tmp_path / "checkpoints" / name / "model.safetensors") for name in ("best", "step-00000004")
    )
    assert all(torch.equal(best[name], last[name]) for name in best)  # without a learning rate
    best["head.bias"] = torch.tensor([3.0, -3.0])
    (tmp_path / "checkpoints" / "best" / "model.safetensors").unlink()
    save_file(best, tmp_path / "checkpoints" / "best" / "model.safetensors")
    torch.testing.assert_close(load_classifier(tmp_path).task.head.bias, best["head.bias"])
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    torch.testing.assert_close(load_classifier(tmp_path).task.head.bias, last["head.bias"])


def test_the_chosen_head_answers(colours: Path, tmp_path: Path) -> None:
    done("probe", colours, tmp_path, steps=2, watch={"looks": 0}, settings={"lrs": (1.0, 2.0, 4.0)})
    image = torch.rand(3, 3, 32, 32)
    first = load_classifier(tmp_path)
    assert (first.head, first.classes, first.size, first.share) == (0, ("blue", "red"), (32, 32), 1.0)
    assert first.images.mean is not None
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / CHOSEN).write_text(json.dumps({"head": 2}))
    chosen = load_classifier(tmp_path)
    assert chosen.head == 2
    assert not chosen.task.training
    logits = chosen.classify(image)
    assert torch.equal(logits, chosen.task.classify(image)[:, 2])
    assert not torch.equal(logits, first.classify(image))
    assert not logits.requires_grad


def test_what_is_no_classifier(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classifier: a run of `maskery eval finetune` or `eval probe` is wanted"):
        load_classifier(colours)
    maskery.pretrain(data=colours, out=tmp_path / "mae", steps=1, **TINY | {"watch": {"looks": 0}})
    with pytest.raises(ValueError, match="a run of mae, which classifies nothing; `maskery eval finetune` makes one"):
        load_classifier(tmp_path / "mae")

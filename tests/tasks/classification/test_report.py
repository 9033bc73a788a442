from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maskery.config import Run
from maskery.runs.directory import open_run
from maskery.tasks.classification.finetune import FinetuneConfig
from maskery.tasks.classification.probe import ProbeConfig
from maskery.tasks.classification.recipe import finetune_recipe, probe_recipe
from maskery.tasks.classification.report import classification_protocol
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.measure import measure
from maskery.tasks.small_data import LabelledData

from ..images import two_colours
from ..runs import done

CPU = torch.device("cpu")
SEED = 2  # of a head that is not right by chance


def test_a_head_is_never_chosen_by_held_out_images(tmp_path: Path) -> None:
    """The test split has its labels exchanged: who is right on the val split is always wrong there."""
    folder = two_colours(tmp_path / "images", {"train": 16, "val": 8, "test": 12}, wrong=["test"])
    length = {"steps": 20, "batch_size": 16, "watch": {"looks": 0}, "optim": {"base_lr": 1.0, "weight_decay": 0.0}}
    done("probe", folder, tmp_path / "run", settings={"lrs": (1e-6, 3.0)}, seed=SEED, **length)
    result = measure(tmp_path / "run", CPU, "it", "them")
    heads = result.tables["learning rates"]
    assert heads["3"] == {"held_out": 0.0, "tune": 1.0}
    assert heads["1e-06"]["tune"] < 1
    assert heads["1e-06"]["held_out"] > 0
    assert result.numbers["top1"] == 0.0
    assert open_run(tmp_path / "run").chosen_head == 1
    assert "of 2 learning rates, the one times 3 is reported: best on images kept out of training" in result.notes
    assert (result.counts["train"], result.counts["tune"], result.counts["held_out"]) == (32, 16, 24)


def test_a_protocol_says_what_was_done() -> None:
    run = Run(settings=None, model="vit-base")
    assert classification_protocol(probe_recipe(run, LabelledData(10**6)).run) == (
        "linear probe of the class token: 90 epochs, batch 16384, lars, base lr 0.1; measured on the centre crop, "
        "87.5% of the short side"
    )
    assert classification_protocol(finetune_recipe(run, LabelledData(10**6)).run) == (
        "fine-tuning by the mean patch: 100 epochs, batch 1024, adamw, base lr 0.0005, layer decay 0.65, drop path "
        "0.1, mixup 0.8, cutmix 1, smoothing 0.1, rand-m9-mstd0.5-inc1, erasing 0.25; measured on the centre crop, "
        "87.5% of the short side"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ProbeConfig(pooling="attentive"), "attentive probe: "),
        (ProbeConfig(pooling="both", layer=4, blocks=2), "linear probe of the both (2 blocks up to 4)"),
        (ProbeConfig(blocks=3), "(3 blocks up to the last)"),
        (ProbeConfig(lrs=(1.0, 2.0)), "2 learning rates"),
        (ProbeConfig(eval_share=1.0), "measured on the centre crop"),
        (FinetuneConfig(average=0.99), "average of weights 0.99"),
        (FinetuneConfig(augment=None), "no RandAugment"),
        (FinetuneConfig(labels=LabelsConfig(shots=2)), "2 labels a class"),
        (FinetuneConfig(labels=LabelsConfig(share="1%", tune=0.1)), "10% of the training images kept out"),
        (FinetuneConfig(labels=LabelsConfig(balanced=True)), "classes balanced in the loss"),
    ],
)
def test_what_differs_between_runs_that_cannot_be_compared_is_in_their_protocols(settings: Any, words: str) -> None:
    recipe = probe_recipe if isinstance(settings, ProbeConfig) else finetune_recipe
    run = recipe(Run(settings=None), LabelledData(10)).run
    usual = classification_protocol(replace(run, settings=type(settings)()))
    assert words in classification_protocol(replace(run, settings=settings)) != usual

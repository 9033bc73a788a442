from typing import Any

import pytest

from maskery.config import OptimConfig, Run, WatchConfig
from maskery.data.crops import Crop
from maskery.schedule import warmup_cosine
from maskery.tasks.classification.finetune import FinetuneConfig
from maskery.tasks.classification.probe import ProbeConfig
from maskery.tasks.classification.recipe import RATES, batch_size, finetune_recipe, probe_recipe
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.small_data import LabelledData

IMAGENET = 1_281_167


def run(**leaves: Any) -> Run:
    return Run(settings=None, data="images", init="weights", **leaves)


def suggested(recipe: Any, images: int, **leaves: Any) -> tuple[Run, tuple[str, ...]]:
    suggestion = recipe(run(**leaves), LabelledData(images))
    return suggestion.run, suggestion.reasons


@pytest.mark.parametrize("images", [500_000, IMAGENET])
def test_the_linear_probe_of_much_data_is_maes(images: int) -> None:
    made, why = suggested(probe_recipe, images)
    assert made.settings == ProbeConfig(pooling="class_token", lrs=(1.0,), eval_share=0.875)
    assert made.optim == OptimConfig("lars", 0.1, 0.0, 10 / 90, 0.0, momentum=0.9)
    assert (made.epochs, made.steps, made.batch_size, made.crop) == (90.0, None, 16384, Crop(scale=(0.08, 1.0)))
    assert made.lr == pytest.approx(6.4)
    assert (made.method, made.data, made.init) == ("probe", "images", "weights")
    assert why == ("MAE's protocol: LARS, batch 16384, base lr 0.1, 90 epochs",)
    lrs = [warmup_cosine(made.lr, made.optim.min_lr, made.optim.warmup, epoch / 90) for epoch in (5, 10, 50, 90)]
    assert lrs == pytest.approx([3.2, 6.4, 3.2, 0.0], abs=1e-6)


def test_the_linear_probe_of_less_data_tries_rates_side_by_side() -> None:
    made, why = suggested(probe_recipe, 499_999)
    assert made.settings == ProbeConfig(lrs=RATES, labels=LabelsConfig(tune=0.1))
    assert (made.optim.name, made.optim.weight_decay, made.batch_size) == ("sgd", 0.0, 1024)
    assert len(why) == 2
    assert "499,999 images" in why[0]


@pytest.mark.parametrize(
    ("model", "patch_size", "epochs", "base_lr", "decay", "drop_path"),
    [
        ("vit-base", 16, 100, 5e-4, 0.65, 0.1),
        ("vit-large", 16, 50, 1e-3, 0.75, 0.2),
        ("vit-huge", 14, 50, 1e-3, 0.75, 0.3),
    ],
)
def test_fine_tuning_on_imagenet_is_maes(
    model: str, patch_size: int, epochs: int, base_lr: float, decay: float, drop_path: float
) -> None:
    made, why = suggested(finetune_recipe, IMAGENET, model=model, patch_size=patch_size)
    mixing = {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "erasing": 0.25, "average": 0.0}
    own = FinetuneConfig("mean_patch", decay, drop_path, "rand-m9-mstd0.5-inc1", eval_share=0.875, **mixing)
    assert made.settings == own
    assert made.optim == OptimConfig("adamw", base_lr, 1e-6, 5 / epochs, 0.05, (0.9, 0.999), clip_grad=None)
    assert (made.epochs, made.batch_size, made.crop) == (epochs, 1024, Crop(scale=(0.08, 1.0)))
    assert made.watch == WatchConfig(looks=20)
    assert (made.model, made.patch_size, made.method) == (model, patch_size, "finetune")
    assert why == (f"{epochs} epochs, layer decay {decay}, drop path {drop_path}: MAE's for {model}",)


def test_fine_tuning_on_less_data_stops_by_a_part_that_is_kept_out() -> None:
    made, why = suggested(finetune_recipe, 5_000, model="vit-small")
    assert made.settings.labels == LabelsConfig(tune=0.1)
    assert (made.watch.best, made.watch.patience, made.watch.looks) == ("tune_top1", 8, 20)
    assert (made.batch_size, made.optim.base_lr) == (64, 1e-3)
    assert "ours for vit-small" in why[0]
    assert [w.split(":")[0] for w in why[1:]] == [
        "batch 64, base lr 0.001",
        "a tenth of the training images is held out, and says which epoch was best and when to stop",
    ]
    assert finetune_recipe(run(), LabelledData(50_000)).run.watch == WatchConfig(looks=20)
    assert finetune_recipe(run(model="vit-micro"), LabelledData(50_000)).run.settings.layer_decay == 0.75


@pytest.mark.parametrize(("channels", "bits", "augmented"), [(1, 8, True), (3, 8, True), (5, 8, False), (3, 16, False)])
def test_rand_augment_where_it_is_defined(channels: int, bits: int, augmented: bool) -> None:
    found = finetune_recipe(run(), LabelledData(IMAGENET, channels=channels, bits=bits))
    assert (found.run.settings.augment is not None) == augmented
    assert any("no RandAugment" in why for why in found.reasons) == (not augmented)


@pytest.mark.parametrize("recipe", [probe_recipe, finetune_recipe])
def test_small_images_are_evaluated_whole(recipe: Any) -> None:
    found = recipe(run(image_size=(224, 96)), LabelledData(IMAGENET))
    assert found.run.settings.eval_share == 1.0
    assert any("224 of 256" in why for why in found.reasons)
    assert recipe(run(image_size=(128, 224)), LabelledData(IMAGENET)).run.settings.eval_share == 0.875


def test_batches_of_small_data() -> None:
    sizes = (40, 300, 512, 10_000, 16_384, IMAGENET)
    assert [batch_size(images, steps=16) for images in sizes] == [16, 16, 32, 512, 1024, 1024]
    assert [batch_size(images, steps=64) for images in sizes] == [16, 16, 16, 128, 256, 1024]

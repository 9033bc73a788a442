from dataclasses import replace

import pytest

from maskery.config import Run
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.segmentation.objective import SegmentConfig
from maskery.tasks.segmentation.recipe import segmentation_recipe
from maskery.tasks.small_data import EARLY_STOPPING, LabelledData

START = Run(settings=SegmentConfig(labels=LabelsConfig(classes='["a", "b"]'), ids=(3, 4)), model="vit-base")


def test_much_data_is_trained_as_mae_was_on_ade20k() -> None:
    run = segmentation_recipe(START, LabelledData(20_210)).run
    assert (run.image_size, run.steps, run.epochs, run.batch_size) == (512, 160_000, None, 16)
    assert run.lr == pytest.approx(1e-4)
    assert run.optim.warmup * 160_000 == pytest.approx(1500)
    assert (run.settings.head, run.settings.layer_decay, run.settings.drop_path) == ("upernet", 0.65, 0.1)
    assert (run.settings.labels.names, run.settings.ids) == (("a", "b"), (3, 4))
    assert (run.watch.best, run.watch.patience) == (None, None)


def test_small_data_is_trained_with_a_light_decoder_and_early_stopping() -> None:
    suggestion = segmentation_recipe(START, LabelledData(100))
    run = suggestion.run
    assert (run.batch_size, run.epochs, run.lr, run.settings.head) == (4, 100.0, pytest.approx(5e-4), "mlp")
    assert (run.settings.labels.tune, run.watch.best, run.watch.patience) == (0.1, "tune_miou", 8)
    assert EARLY_STOPPING in suggestion.reasons
    assert segmentation_recipe(START, LabelledData(1, divisible=False)).run.watch.best is None
    frozen = replace(START, settings=SegmentConfig(freeze=True))
    assert segmentation_recipe(frozen, LabelledData(100)).run.lr == pytest.approx(1e-3)

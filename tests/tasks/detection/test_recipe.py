from dataclasses import replace

import pytest

from maskery.config import Run
from maskery.tasks.detection.objective import DetectConfig
from maskery.tasks.detection.recipe import detection_recipe
from maskery.tasks.small_data import LabelledData


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
    frozen = replace(start, settings=DetectConfig(freeze=True))
    assert detection_recipe(frozen, LabelledData(100)).run.lr == pytest.approx(1e-3)

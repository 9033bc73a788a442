import pytest

from maskery.config import Run
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.small_data import LabelledData
from maskery.tasks.vqa.objective import VqaConfig
from maskery.tasks.vqa.recipe import vqa_recipe


def test_recipes() -> None:
    start = Run(settings=VqaConfig(questions=12, labels=LabelsConfig(classes='["a"]')), model="vit-base")
    large = vqa_recipe(start, LabelledData(82_783)).run
    assert (large.batch_size, large.epochs, large.lr) == (64, 20.0, pytest.approx(1e-4))
    assert large.settings.labels.tune == 0
    small = vqa_recipe(start, LabelledData(1500)).run
    assert (small.batch_size, small.lr, small.watch.best) == (16, pytest.approx(1e-3), "tune_accuracy")
    assert (small.settings.questions, small.settings.labels.names) == (12, ("a",))
    assert vqa_recipe(start, LabelledData(8)).run.batch_size == 4

"""What the tests of tasks share: images of two colours, and an evaluation of each task of its own data."""

from pathlib import Path

import pytest

from maskery.demo import scenes
from maskery.demo.coco import write_coco

from .evaluation import Evaluation
from .images import two_colours
from .squares import write_squares


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training images of two plain colours, 20 held out."""
    return two_colours(tmp_path_factory.mktemp("colours") / "images", {"train": 20, "val": 10})


@pytest.fixture(scope="session")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """60 scenes of 32 pixels, object or not."""
    folder = tmp_path_factory.mktemp("segmentation")
    data = scenes.write_masks(folder / "pairs", 60, size=32, shapes=False)
    return Evaluation.of("segment", data, folder, 32, "images")


@pytest.fixture(scope="session")
def detection(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """40 scenes of 64 pixels, all objects of one class."""
    folder = tmp_path_factory.mktemp("detection")
    data = write_coco(folder / "coco", 40, size=64, shapes=False)
    small = ("--settings.width", "16", "--settings.rois", "16", "--watch.best", "None", "--settings.labels.tune", "0")
    return Evaluation.of("detect", data, folder, 64, small=small)


@pytest.fixture(scope="session")
def vqa(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """64 training images of a square, 32 held out, three questions about each."""
    folder = tmp_path_factory.mktemp("vqa")
    small = ("--settings.text-layers", "1", "--settings.layers", "1")
    small += ("--watch.best", "None", "--settings.labels.tune", "0")
    return Evaluation.of("vqa", write_squares(folder / "squares", 64, 32), folder, 32, small=small)


@pytest.fixture(params=["segmentation", "detection", "vqa"])
def evaluation(request: pytest.FixtureRequest) -> Evaluation:
    return request.getfixturevalue(request.param)

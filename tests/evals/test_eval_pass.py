from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from maskery.data.crops import CenterCrop
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.sources.open import open_source
from maskery.evals.eval_pass import EvalPass, InferenceOptions, eval_mode


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for i in range(5):
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    return Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)


def test_batches_without_an_image_are_passed_over_and_progress_counts_all(images: Images) -> None:
    ticks: list[tuple[int, int]] = []
    dataset = EvalDataset(images, np.array([1, 2, 0, 3, 4]), CenterCrop((32, 32)), 2)
    passed = EvalPass(dataset, InferenceOptions(progress=lambda *x: ticks.append(x)))
    assert [part["indices"].tolist() for part in passed] == [[0, 3], [4]]
    assert passed.indices.tolist() == [0, 3, 4]
    assert [name for name, _ in passed.skipped] == ["1.png", "2.png"]
    assert ticks == [(2, 5), (4, 5), (5, 5)]


def test_nothing_that_can_be_read(images: Images) -> None:
    with pytest.raises(ValueError, match="none of the 2 images can be read"):
        list(EvalPass(EvalDataset(images, np.array([1, 2]), CenterCrop((32, 32)), 2), InferenceOptions()))


@pytest.mark.parametrize("training", [True, False])
def test_a_module_gets_its_mode_back(training: bool) -> None:
    module = nn.Dropout().train(training)
    with eval_mode(module):
        assert not module.training
    assert module.training == training

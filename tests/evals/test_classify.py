from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskery.config import ImagesConfig
from maskery.data.crops import CenterCrop
from maskery.data.dataset import ImageData, open_data
from maskery.data.eval_dataset import EvalDataset
from maskery.data.views import to_float
from maskery.evals.classify import Classify, headline, image_logits, numbers, truth
from maskery.evals.eval_pass import EvalPass, InferenceOptions
from maskery.evals.metrics import multilabel, scores
from maskery.terminal import Quiet

CPU, SIZE = torch.device("cpu"), (32, 32)


def opened(where: Path) -> ImageData:
    return open_data(str(where), ImagesConfig(memory=0), SIZE, Quiet())


def colours(image: Tensor) -> Tensor:
    return image.mean((2, 3))


def logits_of(
    data: ImageData, indices: np.ndarray, classify: Classify = colours, fraction: float = 1.0, **options: Any
) -> tuple[Tensor, EvalPass]:
    crops = EvalPass.of(data.images, indices, CenterCrop(SIZE, fraction), InferenceOptions(**options))
    return image_logits(classify, crops), crops


def test_answers_are_those_of_the_images_in_order(scene_folder: Path) -> None:
    data, seen = opened(scene_folder), []
    which = data.train[::-1][:70]
    logits, crops = logits_of(data, which, progress=lambda done, of: seen.append((done, of)))
    pixels = [np.asarray(Image.open(scene_folder / str(data.images.source.names[i]))) for i in which]
    expected = torch.tensor(np.stack(pixels)).double().mean((1, 2)) / 255
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)
    assert crops.indices.tolist() == which.tolist()
    assert (seen, crops.skipped) == ([(64, 70), (70, 70)], [])


def test_the_crop_keeps_its_fraction(scene_folder: Path) -> None:
    data = opened(scene_folder)
    part, _ = logits_of(data, data.held_out, fraction=0.75)
    cut = EvalDataset(data.images, data.held_out, CenterCrop(SIZE, 0.75), 64)[0]["images"]
    torch.testing.assert_close(part, colours(to_float(cut, CPU)))
    assert not torch.equal(part, logits_of(data, data.held_out)[0])


def test_several_heads_answer_at_once(scene_folder: Path) -> None:
    data = opened(scene_folder)
    logits, _ = logits_of(data, data.held_out, lambda x: torch.stack([colours(x), -colours(x)], 1))
    assert logits.shape == (20, 2, 3)
    assert torch.equal(logits[:, 0], -logits[:, 1])


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    for i in range(30):
        Image.new("RGB", (32, 32), (8 * i, 0, 0)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes(b"no image")
    data = opened(tmp_path)
    logits, crops = logits_of(data, np.array([6, 7, 8]))
    assert crops.indices.tolist() == [6, 8]
    assert [name for name, _ in crops.skipped] == ["07.png"]
    torch.testing.assert_close(logits[:, 0], torch.tensor([48.0, 64.0]) / 255)


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (32, 32), (100 * i, 0, 0)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"logits of 1 of 3 images hold NaN or infinity; the first is 0\.png"):
        logits_of(opened(tmp_path), np.arange(3), lambda x: colours(x).log()[:, :1])


def test_the_truth_and_its_numbers(tmp_path: Path) -> None:
    logits = torch.tensor([[0.2, 0.9], [0.8, 0.1], [0.3, 0.4]])
    assert numbers(logits, torch.tensor([1, 0, 0])) == scores(logits, torch.tensor([1, 0, 0]))
    many = torch.tensor([[0, 1], [1, 1], [1, 0]])
    assert numbers(logits, many) == multilabel(logits, many)[0]
    assert (headline(False), headline(True)) == ("top1", "map")
    assert headline(False) in numbers(logits, torch.tensor([1, 0, 0]))
    assert headline(True) in numbers(logits, many)
    for i in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    (tmp_path / "one.csv").write_text("path,label\n0.png,b\n1.png,a\n2.png,b\n")
    (tmp_path / "many.csv").write_text("path,label\n0.png,b|a\n1.png,a\n2.png,|\n")
    assert truth(opened(tmp_path / "one.csv"), np.array([0, 1])).tolist() == [1, 0]
    assert truth(opened(tmp_path / "many.csv"), np.array([0, 2])).tolist() == [[1, 1], [0, 0]]

"""What evaluations see of an image: torchvision's center crop, on either device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from maskery.config import ImagesConfig
from maskery.data.crops import CenterCrop, ViewBox
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.loader import eval_batches
from maskery.data.sources.open import open_source
from maskery.data.views import CPU, to_float
from maskery.demo import scenes


@pytest.fixture
def images(scene_folder: Path) -> Images:
    return Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)


def test_unreadable_images_are_left_out_and_named(tmp_path: Path, scene_folder: Path) -> None:
    good = sorted(scene_folder.rglob("*.png"))[:3]
    for i, file in enumerate(good):
        (tmp_path / f"{i}.png").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:100])
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)
    first, second = eval_batches(EvalDataset(images, np.arange(4), CenterCrop((16, 16)), 3))
    assert (first["indices"].tolist(), first["skipped"]) == ([0, 1, 2], [])
    assert first["sizes"].tolist() == [[16, 16]] * 3
    assert (second["images"], len(second["indices"]), second["skipped"][0][0]) == (None, 0, "broken.png")


def torchvisions(image: Image.Image, resize: int, size: int) -> np.ndarray:
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = transforms.Compose([transforms.Resize(resize, bicubic), transforms.CenterCrop(size)])
    return np.asarray(steps(image)).astype(float)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("fraction", "resize"), [(0.875, 64), (0.7, 80), (0.95, 59)])
def test_the_crop_is_torchvisions_whatever_the_shape(tmp_path: Path, device: str, fraction: float, resize: int) -> None:
    shapes = [(64, 64), (80, 81), (101, 70), (97, 77), (66, 150), (41, 40), (30, 95)]
    for i, (height, width) in enumerate(shapes):
        scene = Image.fromarray(scenes.scene(0, i, 128).image)
        scene.resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=112)
    crop = CenterCrop((56, 56), fraction)
    data = EvalDataset(images, np.arange(len(shapes)), crop, 9, torch.device(device))
    found = (to_float(data[0]["images"], CPU) * 255).permute(0, 2, 3, 1).numpy()
    assert found.shape == (len(shapes), 56, 56, 3)
    for i, shape in enumerate(shapes):
        difference = np.abs(found[i] - torchvisions(Image.open(tmp_path / f"{i}.png"), resize, 56))
        inner = difference[2:-2, 2:-2] if fraction > 0.9 else difference  # there the kernel reaches beyond what is read
        assert inner.max() < 1.01, shape  # a level, where lines are taken before columns
        assert difference.mean() < 0.3, shape


def test_the_crop_of_real_photographs_is_torchvisions(shared_data: Path) -> None:
    folder = shared_data / "photos"
    images = Images(open_source(folder, ImagesConfig(labels=False)), channels=3, bits=8, pages="first", min_side=448)
    data, compared = EvalDataset(images, np.arange(0, len(images), 4), CenterCrop((224, 224), 0.875), 200)[0], 0
    for view, i in zip(data["images"], data["indices"].tolist(), strict=True):
        photo = ImageOps.exif_transpose(Image.open(folder / images.source.names[i])).convert("RGB")
        difference = np.abs(view.permute(1, 2, 0).numpy() - torchvisions(photo, 256, 224))
        if min(photo.size) < 2 * 256:
            assert difference.max() <= 1, images.source.names[i]
            compared += 1
        else:  # decoded at half the size
            assert difference.mean() < 3, images.source.names[i]
    assert compared > 5


def test_a_fraction_of_one_keeps_everything_and_others_are_refused(images: Images) -> None:
    assert CenterCrop((16, 24))(100, 30) == ViewBox((0, 40, 30, 60), (16, 24))
    data = EvalDataset(images, np.arange(6), CenterCrop((16, 24), 0.8), 6)
    assert data[0]["images"].shape == (6, 3, 16, 24)
    with pytest.raises(ValueError, match=r"crop fraction is 1\.2: between 0\.5 and 1"):
        CenterCrop((16, 24), 1.2)

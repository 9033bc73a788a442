"""Robustness of a classifier that can be looked through: red or blue, by the mean colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskery.data.crops import CenterCrop
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.sources.names import hashes
from maskery.data.sources.open import open_source
from maskery.evals.corruptions import SEVERITIES, corrupt
from maskery.evals.robustness import Corrupted, folder_error, imagenet_c_errors, robustness

CPU, SIZE = torch.device("cpu"), (32, 32)
NAMES = ("gaussian_noise", "brightness")


def write(folder: Path, name: str, colour: tuple[int, int, int], seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (40, 40, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / name)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for i in range(5):
        write(tmp_path / "set" / "blue", f"{i}.png", (60, 60, 150), i)
        write(tmp_path / "set" / "red", f"{i}.png", (150, 60, 60), 10 + i)
    return tmp_path / "set"


def open_images(where: Path) -> Images:
    return Images(open_source(where), channels=3, bits=8, pages="first", min_side=64)


def redder(x: Tensor) -> Tensor:
    """Logits of (blue, red)."""
    mean = x.mean((2, 3))
    return torch.stack([mean[:, 2], mean[:, 0]], dim=1)


def dark_is_blue(x: Tensor) -> Tensor:
    """Takes bright images for red: brightness fools it."""
    bright = x.mean((1, 2, 3))
    return torch.stack([-bright, bright - 0.9], dim=1)


def test_errors_are_those_of_the_corrupted_images_themselves(colours: Path) -> None:
    images = open_images(colours)
    found = robustness(dark_is_blue, images, np.arange(8), SIZE, CPU, names=NAMES, batch=3)
    assert found.images == 8
    assert found.clean == 3 / 8  # every image is dark, three are red
    assert found.by.keys() == set(NAMES)
    assert images.source.labels is not None
    for name in NAMES:
        for severity in SEVERITIES:
            wrong = 0
            for i in range(8):
                view = EvalDataset(images, np.array([i]), CenterCrop(SIZE), 1)[0]["images"][0].permute(1, 2, 0).numpy()
                key = int(hashes([images.source.names[i]])[0])
                x = torch.from_numpy(corrupt(view, name, severity, 0, key)).permute(2, 0, 1)[None] / 255
                wrong += int(dark_is_blue(x).argmax(1)[0]) != images.source.labels[i]
            assert found.by[name][severity] == wrong / 8
    assert found.by["brightness"][5] == 5 / 8  # now every image is bright, and taken for red


def test_batches_and_workers_change_nothing_and_the_bar_comes_to_its_end(colours: Path) -> None:
    images, ticks = open_images(colours), []

    def noisy(x: Tensor) -> Tensor:
        return torch.stack([x[:, :, :8].std((1, 2, 3)), x[:, :, 8:].std((1, 2, 3))], dim=1)

    corrupt(
        np.zeros((512, 512, 3), np.uint8), "defocus_blur", 5, 0, 0
    )  # starts OpenCV's threads, which forks do not have
    names = ("gaussian_noise", "fog", "defocus_blur", "impulse_noise")
    one = robustness(noisy, images, np.arange(10), SIZE, CPU, names=names, batch=4)
    other = robustness(
        noisy, images, np.arange(10), SIZE, CPU, names=names, batch=10, workers=1, progress=lambda *x: ticks.append(x)
    )
    assert one.by == other.by
    assert len({tuple(e.values()) for e in one.by.values()}) > 1
    assert ticks == [(i, 5) for i in (1, 2, 3, 4, 5)]
    again = robustness(noisy, images, np.arange(10), SIZE, CPU, names=names, seed=1)
    assert again.clean == one.clean
    assert robustness(redder, images, np.arange(10), SIZE, CPU, names=names).clean == 0.0


def test_an_image_is_corrupted_the_same_alone(colours: Path) -> None:
    images = open_images(colours)
    every = Corrupted(EvalDataset(images, np.arange(10), CenterCrop(SIZE), 10), ["fog"], 0)[1]
    alone = Corrupted(EvalDataset(images, np.array([7]), CenterCrop(SIZE), 10), ["fog"], 0)[1]
    assert every["images"].shape == (5, 10, 3, 32, 32)
    assert torch.equal(alone["images"][:, 0], every["images"][:, 7])
    assert not torch.equal(every["images"][:, 6], every["images"][:, 7])


def test_what_cannot_be_read_is_left_out(colours: Path) -> None:
    (colours / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = open_images(colours)
    found = robustness(redder, images, np.arange(11), SIZE, CPU, names=("brightness",), batch=1)
    assert (found.images, len(found.skipped)) == (10, 1)
    assert found.skipped[0][0] == "red/broken.png"
    bad = np.array([list(images.source.names).index("red/broken.png")])
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        robustness(redder, images, bad, SIZE, CPU, names=("brightness",))


def test_nan_and_small_images_are_refused(colours: Path) -> None:
    images = open_images(colours)
    with pytest.raises(ValueError, match="logits of 10 of 10 images hold NaN"):
        robustness(lambda x: x.mean((2, 3)) / 0 * 0, images, np.arange(10), SIZE, CPU, names=("fog",))
    with pytest.raises(ValueError, match="the network sees 16 x 16"):
        robustness(redder, images, np.arange(10), (16, 16), CPU)


# ------------------------------------------------------------------------------------------- published test sets
CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")  # what the classifier knows


def by_colour(x: Tensor) -> Tensor:
    """Logits of CLASSES: the first takes everything, unless it is forbidden to."""
    mean = x.mean((2, 3))
    return torch.stack([torch.full((len(x),), 9.0), mean[:, 0], mean[:, 1], mean[:, 2]], dim=1)


def test_a_folder_asks_for_its_own_classes_only(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "r" / "n01443537", f"{i}.png", (150, 60, 60), i)
        write(tmp_path / "r" / "n01491361", f"{i}.png", (60, 60, 150), i)
        write(tmp_path / "r" / "n99999999", f"{i}.png", (60, 150, 60), i)
    write(tmp_path / "r" / "n01491361", "red.png", (150, 60, 60))
    error, images, note = folder_error(by_colour, tmp_path / "r", CLASSES, SIZE, CPU, batch=2)
    assert (error, images) == (1 / 7, 7)
    assert "2 of its 3 classes among the classifier's 4" in note
    assert "images of other classes are left out" in note


def test_imagenet_c_from_its_folders(tmp_path: Path) -> None:
    for at, red in (("blur/defocus_blur/1", 3), ("blur/defocus_blur/2", 1), ("fog/5", 3)):
        for i in range(3):
            write(tmp_path / at / "n01443537", f"{i}.png", (150, 60, 60) if i < red else (60, 60, 150), i)
            write(tmp_path / at / "n01491361", f"{i}.png", (60, 60, 150), i)
    ticks: list[tuple[int, int]] = []
    found, note = imagenet_c_errors(
        by_colour, tmp_path, CLASSES, SIZE, CPU, clean=0.1, batch=4, progress=lambda *x: ticks.append(x)
    )
    assert found.by == {"defocus_blur": {1: 0.0, 2: pytest.approx(2 / 6)}, "fog": {5: 0.0}}
    assert (found.clean, found.images, found.mce) == (0.1, 6, None)
    assert "2 of its 2 classes" in note
    assert ticks[-1] == (3, 3)

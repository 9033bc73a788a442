"""Opening images for a run: surveyed once, split, completed from the survey, decoded into memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.dataset import check_unreadable, load_data, open_data, spread, survey_source
from maskery.nn.vit import IMAGENET_MEAN
from maskery.terminal import Quiet


class Notes(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def grey_images(folder: Path, n: int, dtype: type = np.uint8) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.fromarray(np.full((40, 50), 7 * i, dtype)).save(folder / f"{i:02}.png")
    return folder


def test_a_surveyed_source_is_handed_on(scene_folder: Path) -> None:
    surveyed, notes = survey_source(str(scene_folder), ImagesConfig(), Quiet()), Notes()
    data = load_data(surveyed, ImagesConfig(memory=0.0), (32, 32), notes)
    again = open_data(str(scene_folder), ImagesConfig(memory=0.0), (32, 32), Quiet())
    assert data.images.source is surveyed.source
    assert (data.config, data.fingerprint()) == (again.config, again.fingerprint())
    assert notes.said[0] in surveyed.source.notes
    assert surveyed.survey.lines()[0] in notes.said


def test_the_config_is_completed(scene_folder: Path, tmp_path: Path) -> None:
    colour = open_data(str(scene_folder), ImagesConfig(), (32, 32), Quiet())
    assert (colour.config.channels, colour.config.bits, colour.config.mean) == (3, 8, IMAGENET_MEAN)
    assert (len(colour.validation), colour.images.memory is None) == (0, False)
    grey = open_data(str(grey_images(tmp_path / "grey", 30, np.uint16)), ImagesConfig(memory=0.0), (32, 32), Quiet())
    assert (grey.config.channels, grey.config.bits) == (1, 16)
    assert grey.config.mean == pytest.approx((np.mean([7 * i for i in grey.train]) / 65535,))
    assert grey.config.std == pytest.approx((np.std([7 * i for i in grey.train]) / 65535,))
    with pytest.raises(ValueError, match=r"images\.mean has 3 numbers, the images have 1 channels"):
        open_data(str(tmp_path / "grey"), replace(grey.config, mean=(0.5,) * 3), (32, 32), Quiet())


def test_the_fingerprint_is_of_names_and_order(tmp_path: Path) -> None:
    data = open_data(str(grey_images(tmp_path / "grey", 30)), ImagesConfig(memory=0.0), (32, 32), Quiet())
    assert replace(data, train=data.train[::-1]).fingerprint() != data.fingerprint()
    (tmp_path / "grey" / "00.png").rename(tmp_path / "grey" / "zz.png")
    other = open_data(str(tmp_path / "grey"), ImagesConfig(memory=0.0), (32, 32), Quiet())
    assert other.fingerprint() != data.fingerprint()


def test_too_many_unreadable_images() -> None:
    unreadable = [(f"{i}.png", "0 bytes") for i in range(7)]
    check_unreadable("here", unreadable, 140, 0.05)
    with pytest.raises(ValueError, match=r"here: 7 of 139 images .* 5% .*: 0\.png: 0 bytes; .*; and 2 more$"):
        check_unreadable("here", unreadable, 139, 0.05)


def test_a_part_is_evenly_spread() -> None:
    assert spread(np.arange(100, 200), 3).tolist() == [100, 150, 199]

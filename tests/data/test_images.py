"""Images with their sizes, decoded for a crop or kept."""

import io

import numpy as np
import pytest
from PIL import Image

from maskery.data.decode.unreadable import Unreadable
from maskery.data.images import Images
from maskery.data.sources.source import Source
from maskery.demo import scenes


class Few(Source):
    """A JPEG of 300 x 400, a copy of it at half the size, rubbish, and a file that is gone."""

    where, labels, classes, splits, notes = "here", None, (), None, ()
    names = ("full.jpg", "half.jpg", "rubbish.jpg", "gone.jpg")
    full_sizes = np.array([[300, 400], [300, 400], [0, 0], [0, 0]], np.int32)

    def __init__(self) -> None:
        scene = Image.fromarray(scenes.scene(0, 0, 256).image)
        self.data = []
        for size in ((400, 300), (200, 150)):
            out = io.BytesIO()
            scene.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
            self.data.append(out.getvalue())

    def read(self, i: int) -> bytes:
        if i == 3:
            raise FileNotFoundError(2, "No such file or directory")
        return self.data[i] if i < 2 else b"rubbish"


@pytest.fixture
def few() -> Images:
    return Images(Few(), channels=3, bits=8, pages="first", min_side=64)


def test_sizes_come_before_pixels_and_are_those_of_the_original(few: Images) -> None:
    for i in (0, 1):
        image = few.open(i)
        assert (image.height, image.width) == (300, 400)
        assert image.at(0.5).array.shape[:2] == (150, 200)
        assert image.at(0.25).array.shape[:2] == (75, 100)


def test_what_is_kept_stands_for_the_original(few: Images) -> None:
    assert few[0].shape == (75, 100, 3)  # 64 or more
    assert few.keep_in_memory([0, 1, 2, 3], 1e9)
    for i in (0, 1):
        kept = few.open(i)
        assert (kept.height, kept.width, kept.at(1.0).array.shape) == (300, 400, (75, 100, 3))
    assert np.abs(few[0].astype(int) - few[1]).mean() < 4


def test_unreadable_images_say_why(few: Images) -> None:
    for again in range(2):
        with pytest.raises(Unreadable, match="not an image"):
            few.open(2)
        with pytest.raises(Unreadable, match="No such file"):
            few.open(3)
        if not again:
            assert few.keep_in_memory(range(4), 1e9)
    assert [name for name, _ in few.unreadable()] == ["rubbish.jpg", "gone.jpg"]

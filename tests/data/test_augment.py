"""RandAugment is timm's, grey images included, and a function of the key alone."""

import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import timm.data
from PIL import Image
from timm.data import auto_augment

from maskery.data.augment import Augment
from maskery.demo import scenes

POLICY = "rand-m9-mstd0.5-inc1"
GREY = Augment(POLICY, (0.4,), (48, 64))
COLOUR = Augment(POLICY, size=(48, 64))


def picture(channels: int) -> np.ndarray:
    scene = Image.fromarray(scenes.scene(0, 3, 64).image).crop((0, 8, 64, 56))
    return np.array(scene if channels == 3 else scene.convert("L")).reshape(48, 64, channels)


def seeded(key: int) -> None:
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, key >> 32])


def test_it_is_timms_own_with_the_same_seeds() -> None:
    mean, std = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    stages: Any = timm.data.create_transform(
        (3, 48, 64), True, auto_augment=POLICY, interpolation="bicubic", mean=mean, std=std, separate=True
    )
    view, changed, compared = picture(3), 0, 0
    for key in (i * 0x123456789AB for i in range(100)):
        seeded(key)
        with suppress(ValueError):  # of a Pillow that refuses what timm asks for at magnitude 10
            want = np.asarray(stages[1](Image.fromarray(view)))
            got = COLOUR(view, key)
            assert (got == want).all()
            changed, compared = changed + (got != view).any(), compared + 1
    assert compared > 80
    assert compared / 2 < changed < compared  # two of three in four have at least one operation


@pytest.mark.parametrize(("augment", "channels"), [(GREY, 1), (COLOUR, 3)])
def test_the_key_alone_decides_and_generators_are_given_back(augment: Augment, channels: int) -> None:
    view = picture(channels)
    before = view.copy()
    seeded(7)
    drawn = random.random(), np.random.random()
    seeded(7)
    once = [augment(view, key) for key in range(60)]
    assert (random.random(), np.random.random()) == drawn
    again = [augment(view.copy(), key) for key in reversed(range(60))][::-1]
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert len({a.tobytes() for a in once}) > 30
    assert all(a.shape == view.shape and a.dtype == np.uint8 for a in once)
    assert (view == before).all()


def test_generators_are_given_back_when_it_fails() -> None:
    seeded(7)
    drawn = random.random(), np.random.random()
    seeded(7)
    with pytest.raises((OSError, ValueError)):
        Augment("rand-n9-p1")(np.zeros((8, 8, 2), np.uint8), 0)
    assert (random.random(), np.random.random()) == drawn


@pytest.mark.parametrize(
    "policy", [POLICY, "rand-m20-mmax20-n3-p1.0", "rand-m2-mstd101-n3-p1", "rand-t3aw", "rand-t3a"]
)
def test_grey_images_go_through_every_operation(policy: str) -> None:
    augment, view = Augment(policy, (0.4,), (48, 64)), picture(1)
    augment.check(1, 8)
    assert len({augment(view, key).tobytes() for key in range(300)}) > (3 if policy.endswith("3a") else 40)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_uncovered_has_the_mean(channels: int) -> None:
    mean = (0.4, 0.2, 0.9)[:channels]
    augment = Augment("rand-m10-inc1-n9-p1", mean, (48, 64))
    white = np.full((48, 64, channels), 7, np.uint8)
    corners = {tuple(augment(white, key)[0, 0].tolist()) for key in range(400)}
    fill = tuple(round(255 * x) for x in mean)
    assert fill in corners


def test_no_bits_are_black_and_no_error() -> None:
    """At magnitude 10 timm asks Pillow for no bits at all."""
    assert auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"](10, {}) == (0,)
    augment, view = Augment("rand-m10-n1-p1-inc1"), picture(3)
    black = [key for key in range(100) if not augment(view, key).any()]
    assert 1 <= len(black) <= 20  # one of 15 operations


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "none",
        "random",
        "augmix-m3",
        "original",
        "rand-m9-x1",
        "rand-m9-tfoo",
        "rand-m",
        "rand-m9.5",
        "rand-p2",
        "r",
    ],
)
def test_a_policy_that_is_none(policy: str) -> None:
    with pytest.raises(
        ValueError, match=r"augment is '.*': a policy of timm's RandAugment such as rand-m9-mstd0\.5-in"
    ):
        Augment(policy)


def test_images_it_is_not_made_for() -> None:
    for channels, bits in ((4, 8), (2, 8), (3, 16), (1, 16)):
        with pytest.raises(ValueError, match=rf"not of {channels} of {bits} bits: --settings\.augment none"):
            Augment(mean=(0.5,) * channels).check(channels, bits)
    with pytest.raises(ValueError, match=r"augment mean is \(0\.4,\): one number for each of 3 channels"):
        GREY.check(3, 8)

"""Baselines lose what can be worked out by hand."""

import pytest
import torch

from maskery.nn.baselines import MEAN, NEIGHBOURS, PLACE, image_facts, interpolated, pixel_guesses
from maskery.nn.masking import hide_highest, random_scores

P = 8


@pytest.fixture
def hidden() -> torch.Tensor:
    torch.manual_seed(0)
    return hide_highest(random_scores(40, 16, torch.device("cpu")), 0.75).hidden


def test_of_noise_nothing_can_be_guessed(hidden: torch.Tensor) -> None:
    x = torch.randn(40, 3, 32, 32)
    standardised, raw = pixel_guesses(x, hidden, P, True), pixel_guesses(x, hidden, P, False)
    for found in (standardised, raw):
        assert found[MEAN] == pytest.approx(1, abs=0.02)
        assert found[PLACE] == pytest.approx(1, abs=0.02)
    assert standardised[NEIGHBOURS] == pytest.approx(1, abs=0.01)
    assert raw[NEIGHBOURS] > 0.99  # what is interpolated is noise as well


def test_what_is_the_same_in_every_image_is_known_at_its_place(hidden: torch.Tensor) -> None:
    x = torch.randn(1, 3, 32, 32) + 0.1 * torch.randn(40, 3, 32, 32)
    found = pixel_guesses(x, hidden, P, False)
    assert found[PLACE] == pytest.approx(0.01, rel=0.05)
    assert found[MEAN] > 0.9


def test_what_is_smooth_is_interpolated(hidden: torch.Tensor) -> None:
    rows = torch.linspace(-1, 1, 32)
    x = (torch.randn(40, 3, 1, 1) * rows.view(1, 1, 32, 1) + torch.randn(40, 3, 1, 1)).expand(40, 3, 32, 32)
    for norm_pix in (False, True):
        found = pixel_guesses(x, hidden, P, norm_pix)
        assert found[NEIGHBOURS] < 0.6 * found[MEAN]


def test_interpolation_sees_visible_pixels_only(hidden: torch.Tensor) -> None:
    x = torch.rand(40, 3, 32, 32)
    cover = hidden.view(40, 1, 4, 4).repeat_interleave(P, 2).repeat_interleave(P, 3)
    torch.testing.assert_close(interpolated(x + 100 * cover, hidden, P), interpolated(x, hidden, P))
    assert 0 <= interpolated(x, hidden, P).amin() <= interpolated(x, hidden, P).amax() <= 1 + 1e-5
    assert torch.equal(interpolated(torch.full_like(x, 0.5), hidden, P) > 0.499, torch.ones_like(x, dtype=torch.bool))


def test_images_that_show_nothing_or_are_one() -> None:
    flat = torch.randn(10, 3, 1, 1).expand(10, 3, 32, 32)
    assert image_facts(flat, P)["flat_patches"] == 1
    one = torch.randn(1, 3, 32, 32).expand(10, 3, 32, 32)
    assert image_facts(one, P) == {"flat_patches": 0.0, "images_differ": pytest.approx(0, abs=1e-6)}
    assert image_facts(torch.randn(10, 3, 32, 32), P)["images_differ"] > 0.5

"""The sample at position i is a function of (seed, i), however it is batched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.images import Images
from maskery.data.loader import Draws, Plan, batches, centred, positions, uniforms
from maskery.data.source import open_source
from maskery.data.views import Crop

CPU = torch.device("cpu")


@pytest.fixture
def images(scene_folder: Path) -> Images:
    return Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)


def everything(draws: Draws, steps: int, start: int = 0, workers: int = 0) -> torch.Tensor:
    return torch.cat([part["views"][0] for part in batches(draws, start, steps, workers, CPU)])


@given(n=st.integers(1, 50), seed=st.integers(0, 9), start=st.integers(0, 200))
def test_every_image_once_an_epoch(n: int, seed: int, start: int) -> None:
    epoch = start // n
    drawn = positions(n, seed, epoch * n, n)
    assert sorted(drawn) == list(range(n))
    assert positions(n, seed, start, 5).tolist() == [*positions(n, seed, start, 2), *positions(n, seed, start + 2, 3)]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(positions(30, seed, epoch * 30, 30)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_random_numbers_belong_to_their_position() -> None:
    assert (uniforms(3, 0, 10, 6) == np.concatenate([uniforms(3, 0, 10, 1), uniforms(3, 0, 11, 5)])).all()
    assert len(np.unique(uniforms(3, 0, 0, 50))) == uniforms(3, 0, 0, 50).size
    assert (uniforms(3, 0, 0, 4) != uniforms(3, 1, 0, 4)).all()
    assert (uniforms(3, 0, 0, 4) != uniforms(4, 0, 0, 4)).all()


def test_ranks_and_micro_batches_share_one_global_batch(images: Images) -> None:
    indices, crop = np.arange(40), [Crop()]
    whole = everything(Draws(images, indices, crop, (16, 16), 0, Plan(8, 0, 1, 1)), 3)
    parts = [everything(Draws(images, indices, crop, (16, 16), 0, Plan(8, r, 2, 2)), 3) for r in (0, 1)]
    together = torch.cat([torch.cat([p[4 * s : 4 * s + 4] for p in parts]) for s in range(3)])
    assert torch.equal(whole, together)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_and_with_workers_gives_the_same_samples(images: Images, workers: int) -> None:
    draws = Draws(images, np.arange(40), [Crop()], (16, 16), 0, Plan(8, 0, 1, 2))
    assert torch.equal(everything(draws, 7)[8 * 4 :], everything(draws, 7, start=4, workers=workers))


def test_in_memory_or_not_the_samples_are_the_same(images: Images) -> None:
    draws = Draws(images, np.arange(40), [Crop()], (16, 16), 0, Plan(8, 0, 1, 1))
    decoded_each_time = everything(draws, 3)
    assert images.keep(range(40), 1e9)
    assert torch.equal(everything(draws, 3), decoded_each_time)
    assert not images.keep(range(40), 1000)  # too little room: nothing is kept
    assert not images.kept


def test_views_that_share_a_crop_are_cut_once_and_others_differ(images: Images) -> None:
    draws = Draws(images, np.arange(40), [Crop(), Crop()], (16, 16), 0, Plan(8, 0, 1, 1))
    first, second = draws[0]["views"]
    assert not torch.equal(first, second)


def test_unreadable_images_are_replaced_and_named(tmp_path: Path, scene_folder: Path) -> None:
    good = sorted(scene_folder.rglob("*.png"))[:3]
    for i, file in enumerate(good):
        (tmp_path / f"{i}.png").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:100])
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)
    item = Draws(images, np.arange(4), [Crop()], (16, 16), 0, Plan(4, 0, 1, 1))[0]
    assert item["views"][0].shape == (4, 3, 16, 16)
    assert [name for name, _ in item["skipped"]] == ["broken.png"]
    part = next(iter(centred(images, np.arange(4), (16, 16))))
    assert part["indices"].tolist() == [0, 1, 2]
    assert part["skipped"][0][0] == "broken.png"


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="batch size 10 cannot be shared equally by 2 processes with 2 micro-batches"):
        Plan(10, 0, 2, 2)

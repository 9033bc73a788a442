"""The order of an epoch: every image once, other orders for other epochs and seeds, as even as chance."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.order import permuted, positions, window_order


@given(n=st.integers(1, 50), seed=st.integers(0, 9), start=st.integers(0, 200))
def test_every_image_once_an_epoch(n: int, seed: int, start: int) -> None:
    epoch = start // n
    drawn = positions(n, seed, epoch * n, n)
    assert sorted(drawn) == list(range(n))
    assert positions(n, seed, start, 5).tolist() == [*positions(n, seed, start, 2), *positions(n, seed, start + 2, 3)]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(positions(30, seed, epoch * 30, 30)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_all_orders_are_equally_frequent() -> None:
    """4 images have 24 orders. Chi-squared at 23 degrees of freedom exceeds 49.7 once in a thousand times."""
    found = Counter(tuple(permuted(np.arange(4), 4, seed, epoch)) for seed in range(40) for epoch in range(60))
    assert len(found) == 24
    assert sum((k - 100) ** 2 / 100 for k in found.values()) < 49.7


def test_places_tell_nothing_about_images() -> None:
    n = 20_000
    drawn = permuted(np.arange(n), n, 0, 0)
    for one, other in ((drawn, np.arange(n)), (drawn[1:], drawn[:-1]), (drawn, permuted(np.arange(n), n, 0, 1))):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(n)


def test_a_few_of_very_many() -> None:
    n = 10**12
    drawn = permuted(np.arange(n - 1000, n), n, 5, 7)
    assert len(set(drawn.tolist())) == 1000
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert 0.4 < drawn.mean() / n < 0.6


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 5))
def test_a_window_order_has_every_image_once(lengths, window, epoch):
    blocks = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    order = window_order(blocks, 3, epoch, window)
    assert sorted(order.tolist()) == list(range(len(blocks)))
    np.testing.assert_array_equal(order, window_order(blocks.copy(), 3, epoch, window))


def test_every_stretch_draws_from_a_window_of_blocks():
    blocks = np.repeat(np.arange(500, dtype=np.int32), 100)
    order = window_order(blocks, 0, 0, window=50)
    seen = [len(set(blocks[order[start : start + 5000]].tolist())) for start in range(0, 50_000, 5000)]
    assert min(seen) > 80, "a stretch as long as the window sees the blocks that come, and those that go"
    assert max(seen) < 120
    assert (np.diff(order) == 1).mean() < 0.01
    orders = [window_order(blocks, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    all_of_it = window_order(blocks, 0, 0, window=500)  # as good as a permutation: places are not correlated
    assert abs(np.corrcoef(blocks[all_of_it], np.arange(50_000))[0, 1]) < 0.02

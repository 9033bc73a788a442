"""The order of the images in an epoch: a permutation that is computed where it is asked for, not kept.

So a process needs no memory for it, however many images there are. Packs at URLs are read block by block, and there the
order is kept. n images, k positions.
"""

from functools import lru_cache

import numpy as np

from .pack.remote import window_order

ROUNDS = 8


def positions(n: int, seed: int, start: int, count: int, blocks: bytes | None = None) -> np.ndarray:
    """Which of n images are drawn at the global positions start .. start + count - 1; every n positions an epoch.

    `blocks`: int32 [n], images of one block are best read together.
    """
    drawn = np.arange(start, start + count)
    found = np.empty(count, np.int64)
    for epoch in np.unique(drawn // n).tolist():
        here = drawn // n == epoch
        i = drawn[here] % n
        found[here] = permuted(i, n, seed, epoch) if blocks is None else _windowed(blocks, seed, epoch)[i]
    return found


def permuted(i: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where a permutation of 0 .. n - 1 puts the positions `i` [k]: a function of n, seed and epoch, [k].

    A Feistel network over the next power of four; what lands at n or beyond goes through it again (cycle walking: Black
    and Rogaway, "Ciphers with arbitrary finite domains", 2002). The round function is splitmix64's.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    found, waiting, x = np.empty(len(i), np.int64), np.arange(len(i)), i.astype(np.uint64)
    while len(waiting):
        left, right = x >> half, x & low
        for key in keys:
            left, right = right, left ^ (_scrambled(right ^ key) & low)
        x = left << half | right
        inside = x < n
        found[waiting[inside]] = x[inside]
        x, waiting = x[~inside], waiting[~inside]
    return found


def _scrambled(x: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of x [k]."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=2)
def _windowed(blocks: bytes, seed: int, epoch: int) -> np.ndarray:
    return window_order(np.frombuffer(blocks, np.int32), seed, epoch)

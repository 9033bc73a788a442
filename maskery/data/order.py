"""The order of the images in an epoch: a permutation that is computed where it is needed, not stored.

So a process needs no memory for it, however many images there are. Packs at URLs are read block by block, and their
order is stored. n images, k positions.
"""

from functools import lru_cache

import numpy as np

ROUNDS = 8
WINDOW = 256  # blocks that are drawn from at a time: about 100,000 JPEGs with a short side of 256


def positions(n: int, seed: int, start: int, count: int, blocks: bytes | None = None) -> np.ndarray:
    """Return the images, of n, at the global positions start .. start + count - 1; every n positions are an epoch.

    `blocks`: int32 [n], images of one block are best read together.
    """
    at = np.arange(start, start + count)
    images = np.empty(count, np.int64)
    for epoch in np.unique(at // n).tolist():
        of_epoch = at // n == epoch
        i = at[of_epoch] % n
        images[of_epoch] = permuted(i, n, seed, epoch) if blocks is None else _stored_order(blocks, seed, epoch)[i]
    return images


def permuted(i: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Permute the positions `i` [k] of 0 .. n - 1: a function of n, seed and epoch, [k].

    A Feistel network over the next power of four; what lands at n or beyond goes through it again (cycle walking: Black
    and Rogaway, "Ciphers with arbitrary finite domains", 2002). The round function is splitmix64's.
    """
    bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # of the left and of the right part
    low = (np.uint64(1) << bits) - np.uint64(1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    images, waiting, x = np.empty(len(i), np.int64), np.arange(len(i)), i.astype(np.uint64)
    while len(waiting):
        left, right = x >> bits, x & low
        for key in keys:
            left, right = right, left ^ (_scrambled(right ^ key) & low)
        x = left << bits | right
        inside = x < n
        images[waiting[inside]] = x[inside]
        x, waiting = x[~inside], waiting[~inside]
    return images


def _scrambled(x: np.ndarray) -> np.ndarray:
    """Mix the bits of x [k]: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=2)
def _stored_order(blocks: bytes, seed: int, epoch: int) -> np.ndarray:
    return window_order(np.frombuffer(blocks, np.int32), seed, epoch)


def window_order(blocks: np.ndarray, seed: int, epoch: int, window: int = WINDOW) -> np.ndarray:
    """Order n images so that they are drawn from `window` blocks at a time: [n], a function of these arguments alone.

    `blocks` [n]: each image's block. Blocks are permuted; an image of the block at place j is drawn at the time
    (j + window * u) modulo the number of blocks, u uniform in [0, 1). So every stretch of the epoch draws from `window`
    blocks, each enters and leaves by itself, and with window = number of blocks it is a permutation of all images.
    """
    distinct, place = np.unique(blocks, return_inverse=True)
    draw = np.random.default_rng([seed, epoch])
    time_of = draw.permutation(len(distinct))[place] + min(window, len(distinct)) * draw.random(len(blocks))
    return np.argsort(time_of % len(distinct), kind="stable")

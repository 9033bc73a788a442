"""Pictures in memory, once a machine."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as td

from maskery.data.decode.picture import Picture
from maskery.data.decode.unreadable import Unreadable
from maskery.data.memory_cache import Decoder, MemoryCache, fill_cache
from maskery.distributed import World


def picture(i: int) -> Picture:
    """Sizes and places of all kinds; every seventh cannot be read."""
    if i % 7 == 3:
        raise Unreadable(f"no {i}")
    array = np.full((i % 5 + 1, i % 3 + 2, 3), i % 256, np.uint8)[::-1]
    return Picture(array, 10 * i + 1, 20 * i + 1, (0.25, 0.0, 1.5, i / 3))


def deep(i: int) -> Picture:
    return Picture.of(np.full((2, 3, 5), 1000 + i, np.uint16))


def check(cache: MemoryCache, indices: list[int]) -> None:
    assert len(cache) == len(indices)
    for i in indices:
        assert i in cache
        if i % 7 == 3:
            with pytest.raises(Unreadable, match=f"no {i}$"):
                cache[i]
            continue
        want, got = picture(i), cache[i]
        np.testing.assert_array_equal(got.array, want.array)
        assert (got.height, got.width, got.extent) == (want.height, want.width, want.extent)


def test_they_come_back_as_they_were():
    indices = [5, 3, 40, 0, 17, 599, *range(100, 500)]
    progress: list[tuple[int, int]] = []
    expected: list[int] = []
    decoder = Decoder(picture, 600, 8, expected.extend)
    cache, failure = fill_cache(decoder, indices, 1e9, progress=lambda *step: progress.append(step))
    assert cache
    assert failure == ""
    check(cache, indices)
    assert sorted(cache.problems) == sorted(i for i in indices if i % 7 == 3)
    assert progress[-1] == (len(indices), len(indices))
    assert expected == indices
    assert 1 not in cache
    with pytest.raises(KeyError):
        cache[1]
    assert abs(cache.nbytes - sum(picture(i).nbytes for i in indices if i % 7 != 3)) < 64


def test_sixteen_bits_and_writing_changes_nothing_for_others():
    cache, _ = fill_cache(Decoder(deep, 9, 16), range(9), 1e9)
    assert cache
    assert (cache[4].array == 1004).all()
    other = pickle.loads(pickle.dumps(cache))
    cache[4].array[:] = 0
    assert (other[4].array == 1004).all()
    assert cache[4].array.dtype == np.uint16


def test_too_many_are_not_cached():
    expected: list[int] = []
    decoder = Decoder(picture, 500, 8, expected.extend)
    cache, failure = fill_cache(decoder, range(500), 1000)
    assert cache is None
    assert len(expected) == 256, "after the first ones it is clear"
    assert fill_cache(decoder, range(500), 0) == (None, failure)
    assert len(expected) == 256
    assert "images.memory" in failure


def test_workers_see_them_forked_or_spawned():
    cache, _ = fill_cache(Decoder(picture, 50, 8), range(50), 1e9)
    assert cache
    assert len(pickle.dumps(cache)) < 2000, "a name, not the pixels"
    for context in ("fork", "spawn"):
        with multiprocessing.get_context(context).Pool(1) as pool:
            pool.apply(check, (cache, list(range(50))))


def test_nothing_is_left_when_they_are_forgotten():
    cache, _ = fill_cache(Decoder(picture, 50, 8), range(50), 1e9)
    assert cache
    path = cache.parts[0].path
    assert os.readlink(path).startswith("/memfd:maskery-images")
    del cache
    assert not os.path.exists(path) or "maskery" not in os.readlink(path)


def process(rank: int, folder: Path, kill: bool) -> None:
    """One of two; writes what it saw into a file."""
    td.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    world = World(rank, 2, 2, torch.device("cpu"), td.group.WORLD)
    decoded: list[int] = []

    def counting(i: int) -> Picture:
        decoded.append(i)
        return picture(i)

    cache, failure = fill_cache(Decoder(counting, 60, 8), range(60), 1e9, world)
    assert cache, failure
    check(cache, list(range(60)))
    none, failure = fill_cache(Decoder(picture, 60, 8), range(60), 100, world)
    assert none is None
    links = [os.readlink(part.path) for part in cache.parts]
    (folder / f"{rank}.json").write_text(json.dumps([decoded, failure, links]))
    world.wait()
    if kill and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kill:
        while Path(cache.parts[1].path).is_symlink():  # until the other process is gone
            time.sleep(0.01)
        check(cache, list(range(60)))
    os._exit(0)


@pytest.mark.parametrize("kill", [False, True])
def test_two_processes_decode_each_image_once(tmp_path, kill):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=process, args=(r, tmp_path, kill)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, -signal.SIGKILL if kill else 0]
    answers = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)]
    assert [sorted(decoded) for decoded, _, _ in answers] == [list(range(30)), list(range(30, 60))]
    for _, failure, links in answers:
        assert "images.memory" in failure
        assert len(links) == 2
        assert all(link.startswith("/memfd:maskery-images") for link in links)
    assert not [name for name in os.listdir("/dev/shm") if "maskery" in name]

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
from maskery.data.memory_cache import MemoryCache, decode_into_memory
from maskery.distributed import World


def picture(i: int) -> Picture:
    """Sizes and places of all kinds; every seventh cannot be read."""
    if i % 7 == 3:
        raise Unreadable(f"no {i}")
    array = np.full((i % 5 + 1, i % 3 + 2, 3), i % 256, np.uint8)[::-1]
    return Picture(array, 10 * i + 1, 20 * i + 1, (0.25, 0.0, 1.5, i / 3))


def deep(i: int) -> Picture:
    return Picture.of(np.full((2, 3, 5), 1000 + i, np.uint16))


def check(kept: MemoryCache, indices: list[int]) -> None:
    assert len(kept) == len(indices)
    for i in indices:
        assert i in kept
        if i % 7 == 3:
            with pytest.raises(Unreadable, match=f"no {i}$"):
                kept[i]
            continue
        want, got = picture(i), kept[i]
        np.testing.assert_array_equal(got.array, want.array)
        assert (got.height, got.width, got.extent) == (want.height, want.width, want.extent)


def test_they_come_back_as_they_were():
    indices = [5, 3, 40, 0, 17, 599, *range(100, 500)]
    told: list[tuple[int, int]] = []
    asked: list[int] = []
    kept, why = decode_into_memory(
        picture, indices, 600, 8, 1e9, expect=asked.extend, progress=lambda done, total: told.append((done, total))
    )
    assert kept
    assert why == ""
    check(kept, indices)
    assert sorted(kept.problems) == sorted(i for i in indices if i % 7 == 3)
    assert told[-1] == (len(indices), len(indices))
    assert asked == indices
    assert 1 not in kept
    with pytest.raises(KeyError):
        kept[1]
    assert abs(kept.nbytes - sum(picture(i).nbytes for i in indices if i % 7 != 3)) < 64


def test_sixteen_bits_and_writing_changes_nothing_for_others():
    kept, _ = decode_into_memory(deep, range(9), 9, 16, 1e9)
    assert kept
    assert (kept[4].array == 1004).all()
    other = pickle.loads(pickle.dumps(kept))
    kept[4].array[:] = 0
    assert (other[4].array == 1004).all()
    assert kept[4].array.dtype == np.uint16


def test_too_many_are_not_kept():
    asked: list[int] = []
    kept, why = decode_into_memory(picture, range(500), 500, 8, 1000, expect=asked.extend)
    assert kept is None
    assert len(asked) == 256, "after the first ones it is clear"
    assert decode_into_memory(picture, range(500), 500, 8, 0, expect=asked.clear) == (None, why)
    assert asked
    assert "images.memory" in why


def test_workers_see_them_forked_or_spawned():
    kept, _ = decode_into_memory(picture, range(50), 50, 8, 1e9)
    assert kept
    assert len(pickle.dumps(kept)) < 2000, "a name, not the pixels"
    for context in ("fork", "spawn"):
        with multiprocessing.get_context(context).Pool(1) as pool:
            pool.apply(check, (kept, list(range(50))))


def test_nothing_is_left_when_they_are_forgotten():
    kept, _ = decode_into_memory(picture, range(50), 50, 8, 1e9)
    assert kept
    (path, *_), *_ = kept._arguments[2]
    assert os.readlink(path).startswith("/memfd:maskery-images")
    del kept
    assert not os.path.exists(path) or "maskery" not in os.readlink(path)


def process(rank: int, folder: Path, kill: bool) -> None:
    """One of two; writes what it saw into a file."""
    td.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    world = World(rank, 2, 2, torch.device("cpu"), td.group.WORLD)
    decoded: list[int] = []

    def counting(i: int) -> Picture:
        decoded.append(i)
        return picture(i)

    kept, why = decode_into_memory(counting, range(60), 60, 8, 1e9, world=world)
    assert kept, why
    check(kept, list(range(60)))
    not_kept, why = decode_into_memory(picture, range(60), 60, 8, 100, world=world)
    assert not_kept is None
    links = [os.readlink(path) for path, _, _ in kept._arguments[2]]
    (folder / f"{rank}.json").write_text(json.dumps([decoded, why, links]))
    world.wait()
    if kill and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kill:
        while Path(kept._arguments[2][1][0]).is_symlink():  # until the other process is gone
            time.sleep(0.01)
        check(kept, list(range(60)))
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
    for _, why, links in answers:
        assert "images.memory" in why
        assert len(links) == 2
        assert all(link.startswith("/memfd:maskery-images") for link in links)
    assert not [name for name in os.listdir("/dev/shm") if "maskery" in name]

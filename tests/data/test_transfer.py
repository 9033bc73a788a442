"""What workers leave in shared memory is what they would have sent."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.data.crops import Crop, to_float
from maskery.data.images import Images
from maskery.data.loader import Draws, Plan, batches
from maskery.data.resample import Packing, Regions
from maskery.data.sources.open import open_source
from maskery.data.transfer import Slots, ahead

GPU = torch.device("cuda")  # regions are packed for one; none is needed until they are resized there


@pytest.mark.skipif(not Slots.possible(), reason="workers are not forked here")
def test_slots_are_used_again_and_hold_what_would_be_sent(scene_folder: Path) -> None:
    images = Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)
    crops = [Crop(), Crop(scale=(0.5, 1.0))]
    draws = Draws(images, np.arange(100), crops, (24, 24), 0, Plan(140, 0, 1), GPU)
    assert draws.pieces == 2
    for step, item in enumerate(batches(draws, 1, 9, workers=2), 1):  # 16 pieces in 5 slots
        sent = [draws[2 * step + piece]["views"] for piece in range(2)]
        for c, regions in enumerate(item["views"]):
            for here, there in zip(regions, (views[c] for views in sent), strict=True):
                assert torch.equal(here.pixels, there.pixels)
                assert torch.equal(here.table, there.table)
        assert to_float(item["views"][0], torch.device("cpu")).shape == (140, 3, 24, 24)


def test_what_does_not_fit_is_sent() -> None:
    slots = Slots(1, 2, 3000)
    region = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    filled: list[Regions] = []
    for slot, count in zip(slots.of(7), (1, 2), strict=True):
        packing = Packing(2, (8, 8), 3, 8, share=False, slot=slot)
        for _ in range(count):
            packing.add(region, (0, 0, 30, 30), False)
        filled.append(packing.done())
    assert [len(regions.pixels) for regions in filled] == [0, 5400]
    for regions, count in zip(slots.emptied(7, filled), (1, 2), strict=True):
        assert regions.pixels.tolist() == region.ravel().tolist() * count


def test_one_ahead_in_order() -> None:
    numbers = iter(range(5))
    assert list(ahead(lambda: next(numbers), 5)) == [0, 1, 2, 3, 4]
    assert list(ahead(lambda: 1, 0)) == []
    broken = ahead(lambda: 1 // 0, 2)
    with pytest.raises(ZeroDivisionError):
        next(broken)

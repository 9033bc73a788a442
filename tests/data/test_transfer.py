"""What workers leave in shared memory is what they would have sent."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.data.crops import Crop, ViewBox
from maskery.data.images import Images
from maskery.data.loader import train_batches
from maskery.data.resample import Regions, ViewFormat
from maskery.data.sources.open import open_source
from maskery.data.train_dataset import RandomCrops, SamplingPlan, TrainDataset
from maskery.data.transfer import TransferBuffers, run_ahead
from maskery.data.views import CPU, RegionBuffer, to_float

GPU = torch.device("cuda")  # regions are packed for one; none is needed until they are resized there


@pytest.mark.skipif(not TransferBuffers.possible(), reason="workers are not forked here")
def test_buffers_are_used_again_and_hold_what_would_be_sent(scene_folder: Path) -> None:
    images = Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)
    crops = [Crop(), Crop(scale=(0.5, 1.0))]
    data = TrainDataset(images, np.arange(100), SamplingPlan((24, 24), 0, 140, device=GPU), RandomCrops(crops))
    assert data.plan.pieces == 2
    for step, item in enumerate(train_batches(data, 1, 9, workers=2), 1):  # 16 pieces in 5 buffers
        sent = [data[2 * step + piece]["views"] for piece in range(2)]
        for c, regions in enumerate(item["views"]):
            for here, there in zip(regions, (views[c] for views in sent), strict=True):
                assert torch.equal(here.pixels, there.pixels)
                assert torch.equal(here.table, there.table)
        assert to_float(item["views"][0], CPU).shape == (140, 3, 24, 24)


def test_what_does_not_fit_is_sent() -> None:
    buffers = TransferBuffers(1, 2, 3000)
    region = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    filled: list[Regions] = []
    for buffer, count in zip(buffers.of(7), (1, 2), strict=True):
        packed = RegionBuffer(ViewFormat((8, 8), 3, 8), 2, buffer)
        for _ in range(count):
            packed.add(region, (0, 0, 30, 30), ViewBox((0, 0, 30, 30), (8, 8)))
        filled.append(packed.done())
    assert [len(regions.pixels) for regions in filled] == [0, 5400]
    for regions, count in zip(buffers.emptied(7, filled), (1, 2), strict=True):
        assert regions.pixels.tolist() == region.ravel().tolist() * count


def test_one_ahead_in_order() -> None:
    numbers = iter(range(5))
    assert list(run_ahead(lambda: next(numbers), 5)) == [0, 1, 2, 3, 4]
    assert list(run_ahead(lambda: 1, 0)) == []
    broken = run_ahead(lambda: 1 // 0, 2)
    with pytest.raises(ZeroDivisionError):
        next(broken)

"""Crops, one by one and as matrix products: Pillow's pixels."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskery.data.crops import ViewBox
from maskery.data.decode.picture import Box
from maskery.data.resample import CHUNK, Regions, ViewFormat, resized, weights
from maskery.data.views import CPU, RegionBuffer, ViewStack, join_views
from maskery.demo import scenes

SIZES = [(224, 224), (64, 64), (48, 80)]


def pictures(count: int, channels: int, dtype: type) -> Iterator[np.ndarray]:
    """Scenes of many sizes with some noise and hard edges."""
    draw = np.random.default_rng(channels)
    for i in range(count):
        height, width = draw.integers(60, 400, 2)
        scene = Image.fromarray(scenes.scene(0, i, 128).image).resize(
            (int(width), int(height)), Image.Resampling.BICUBIC
        )
        image = np.asarray(scene)[:, :, np.arange(channels) % 3].astype(float) + draw.normal(0, 6, (height, width, 1))
        image[height // 3 : height // 2, width // 4 :] = 255 * (i % 2)
        full = np.iinfo(dtype).max
        yield np.clip(image * full / 255, 0, full).astype(dtype)


def drawn(image: np.ndarray, draw: np.random.Generator, whole: bool) -> Box:
    height, width = image.shape[:2]
    if whole:
        return (0, 0, width, height)
    left, top = draw.uniform(0, width - 20), draw.uniform(0, height - 20)
    return (left, top, draw.uniform(left + 20, width), draw.uniform(top + 20, height))


def pillows(image: np.ndarray, size: tuple[int, int], box: Box, flip: bool, columns_first: bool) -> np.ndarray:
    """[h, w, C] in levels of 255, each channel by itself."""
    deep = image.dtype == np.uint16
    left, top, right, bottom = box
    planes = []
    for plane in np.ascontiguousarray(image.transpose(2, 0, 1)):
        pixels = Image.fromarray(plane.astype(np.float32) if deep else plane)
        if columns_first:
            pixels = pixels.resize((size[1], pixels.height), Image.Resampling.BICUBIC, (left, 0, right, pixels.height))
            pixels = pixels.resize(size[::-1], Image.Resampling.BICUBIC, (0, top, size[1], bottom))
        else:
            pixels = pixels.resize(size[::-1], Image.Resampling.BICUBIC, box)
        planes.append(np.asarray(pixels).astype(float))
    view = np.stack(planes, 2)
    return np.clip(view[:, ::-1] if flip else view, 0, np.iinfo(image.dtype).max) * 255 / np.iinfo(image.dtype).max


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("channels", "dtype", "precision"),
    [
        (3, np.uint8, torch.float32),
        (3, np.uint8, torch.float16),  # what a GPU takes for 8 bits
        (1, np.uint8, torch.float32),
        (3, np.uint16, torch.float32),
        (16, np.uint8, torch.float32),
    ],
)
def test_pixels_are_pillows(size, whole, channels, dtype, precision):
    count, draw, bits = 24 if channels <= 3 else 6, np.random.default_rng(0), 8 * np.dtype(dtype).itemsize
    packing, stack = (kind(ViewFormat(size, channels, bits), count) for kind in (RegionBuffer, ViewStack))
    want: list[list[np.ndarray]] = [[], []]
    for i, image in enumerate(pictures(count, channels, dtype)):
        box, flip = drawn(image, draw, whole), bool(i % 2)
        packing.add(image, box, ViewBox(box, size, flip))
        stack.add(image, box, ViewBox(box, size, flip))
        for columns_first in (False, True):
            want[columns_first].append(pillows(image, size, box, flip, columns_first))
    products = packing.done().resized(CPU, precision)
    assert products.shape == (count, channels, *size)
    assert products.dtype == torch.float32
    assert 0 <= float(products.min()) <= float(products.max()) <= 1
    products = products.permute(0, 2, 3, 1).numpy() * 255
    one_by_one = stack.done().float().permute(0, 2, 3, 1).numpy() * 255 / np.iinfo(dtype).max
    for views, columns_first, mean in (
        (products, True, 0.05),
        (products, False, 0.2),  # Pillow 13 takes the rows of tall images first, and rounds between the two
        (one_by_one, False, 0.2),
    ):
        difference = np.abs(views - np.stack(want[columns_first]))
        assert difference.mean() < mean
        assert (difference <= 1.01).mean() >= 0.999


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 60),
    most=st.integers(0, 20),
    n=st.integers(1, 40),
    at=st.floats(0, 0.9),
    part=st.floats(0.05, 1),
)
def test_weights_sum_to_one_inside_the_line(length, most, n, at, part):
    first = at * length
    last = first + part * (length - first)
    found = weights(torch.tensor([first]), torch.tensor([last]), torch.tensor([length]), n, length + most)
    assert found.shape == (1, n, length + most)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, n))
    assert not found[0, :, length:].any()


def test_more_than_a_chunk_and_more_than_the_first_buffer():
    draw = np.random.default_rng(0)
    packing, stack = (kind(ViewFormat((8, 8), 3, 8), CHUNK + 9) for kind in (RegionBuffer, ViewStack))
    for _ in range(CHUNK + 9):
        image = draw.integers(0, 256, (*draw.integers(10, 60, 2), 3), np.uint8)
        box = (0, 0, image.shape[1], image.shape[0])
        for batch in (packing, stack):
            batch.add(image, box, ViewBox(box, (8, 8)))
    regions = packing.done()
    assert len(regions) == CHUNK + 9
    difference = (regions.resized(CPU) * 255 - stack.done().float()).abs()
    assert float(difference.mean()) < 0.1
    joined = join_views([regions, regions])
    assert isinstance(joined, list)
    assert isinstance(joined[0], Regions)
    assert torch.equal(join_views([stack.done(), stack.done()]), torch.cat([stack.done()] * 2))


def test_sixteen_bits_stay_sixteen_bits():
    ramp = np.linspace(1000, 1255, 64 * 64).astype(np.uint16).reshape(64, 64, 1)
    view = resized(ramp, (0, 0, 64, 64), False, (32, 32))
    assert view.dtype == torch.uint16
    packing = RegionBuffer(ViewFormat((32, 32), 1, 16), 1)
    packing.add(ramp, (0, 0, 64, 64), ViewBox((0, 0, 64, 64), (32, 32)))
    for values in (view.float(), packing.done().resized(CPU) * 65535):
        assert len(values.round().unique()) > 100  # eight bits would leave one
        assert float(values.mean()) == pytest.approx(ramp.mean(), abs=1)


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_and_views_of_others():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    want = resized(image, (0, 0, 60, 50), False, (16, 16))
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(resized(frozen, (0, 0, 60, 50), False, (16, 16)), want)
    assert torch.equal(resized(image[:, ::-1][:, ::-1], (0, 0, 60, 50), False, (16, 16)), want)
    assert torch.equal(
        resized(image[:, ::-1], (0, 0, 60, 50), True, (16, 16)),
        resized(np.ascontiguousarray(image[:, ::-1]), (0, 0, 60, 50), True, (16, 16)),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [8, 16])
def test_a_gpu_gives_the_same_and_nobody_waits_for_it(bits):
    packing = RegionBuffer(ViewFormat((224, 224), 3, bits), 30)
    for i, image in enumerate(pictures(30, 3, np.uint8 if bits == 8 else np.uint16)):
        box = (0, 0, image.shape[1], image.shape[0])
        packing.add(image, box, ViewBox(box, (224, 224), bool(i % 2)))
    regions = packing.done().pin_memory()
    want = regions.resized(CPU)
    regions.resized(torch.device("cuda"))  # allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = regions.resized(torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (got.cpu() - want).abs() * 255
    assert float(difference.mean()) < 0.1
    assert float((difference <= 1.01).float().mean()) >= 0.999


def test_one_pixel_mirrored_by_its_exif_is_a_picture_like_others() -> None:
    """Its strides are negative, and NumPy calls it contiguous."""
    pixel = np.full((1, 1, 3), 7, np.uint8)[:, ::-1]
    pixel = np.lib.stride_tricks.as_strided(pixel, strides=(3, -3, 1))
    stack = ViewStack(ViewFormat((4, 4), 3, 8), 1)
    stack.add(pixel, (0, 0, 1, 1), ViewBox((0, 0, 1, 1), (4, 4)))
    done = stack.done()
    assert isinstance(done, torch.Tensor)
    assert (done == 7).all()

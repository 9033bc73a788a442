"""The sample at position i is a function of (seed, i), however it is batched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from maskery.data import scenes
from maskery.data.images import Images
from maskery.data.loader import PIECE, Centred, Draws, Plan, batches, centred, uniforms
from maskery.data.order import positions
from maskery.data.resample import Regions
from maskery.data.source import open_source
from maskery.data.views import Crop

CPU = torch.device("cpu")


@pytest.fixture
def images(scene_folder: Path) -> Images:
    return Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)


def everything(draws: Draws, steps: int, start: int = 0, workers: int = 0) -> torch.Tensor:
    return torch.cat([part["views"][0] for part in batches(draws, start, steps, workers)])


def test_random_numbers_belong_to_their_position() -> None:
    assert (uniforms(3, 0, 10, 6) == np.concatenate([uniforms(3, 0, 10, 1), uniforms(3, 0, 11, 5)])).all()
    assert len(np.unique(uniforms(3, 0, 0, 50))) == uniforms(3, 0, 0, 50).size
    assert (uniforms(3, 0, 0, 4) != uniforms(3, 1, 0, 4)).all()
    assert (uniforms(3, 0, 0, 4) != uniforms(4, 0, 0, 4)).all()


def test_ranks_share_one_global_batch(images: Images) -> None:
    indices, crop = np.arange(40), [Crop()]
    whole = everything(Draws(images, indices, crop, (16, 16), 0, Plan(8, 0, 1)), 3)
    parts = [everything(Draws(images, indices, crop, (16, 16), 0, Plan(8, r, 2)), 3) for r in (0, 1)]
    together = torch.cat([torch.cat([p[4 * s : 4 * s + 4] for p in parts]) for s in range(3)])
    assert torch.equal(whole, together)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_and_with_workers_gives_the_same_samples(images: Images, workers: int) -> None:
    draws = Draws(images, np.arange(40), [Crop()], (16, 16), 0, Plan(8, 0, 1))
    assert torch.equal(everything(draws, 7)[8 * 4 :], everything(draws, 7, start=4, workers=workers))


def test_in_memory_or_not_the_samples_are_the_same(images: Images) -> None:
    draws = Draws(images, np.arange(40), [Crop()], (16, 16), 0, Plan(8, 0, 1))
    decoded_each_time = everything(draws, 3)
    assert images.keep(range(40), 1e9)
    assert torch.equal(everything(draws, 3), decoded_each_time)
    assert not images.keep(range(40), 1000)  # too little room: nothing is kept
    assert not images.kept


def test_views_that_share_a_crop_are_cut_once_and_others_differ(images: Images) -> None:
    draws = Draws(images, np.arange(40), [Crop(), Crop()], (16, 16), 0, Plan(8, 0, 1))
    first, second = draws[0]["views"]
    assert not torch.equal(first, second)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs several times larger than the views that are cut from them, some turned by EXIF."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(12):
        scene = Image.fromarray(scenes.scene(0, i, 128).image)
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8
        scene.resize((300 + 17 * i, 260), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg", quality=95, exif=exif)
    return folder


def photographs_of(folder: Path) -> Images:
    return Images(open_source(folder), channels=3, bits=8, pages="first", min_side=64)


def test_crops_of_large_jpegs_are_those_of_the_whole_image(photographs: Path) -> None:
    images, plan, crop = photographs_of(photographs), Plan(12, 0, 1), Crop(scale=(0.3, 1.0))
    views = Draws(images, np.arange(12), [crop], (32, 48), 5, plan)[0]["views"][0]
    for j, (i, u) in enumerate(zip(positions(12, 5, 0, 12), uniforms(5, 0, 0, 12), strict=True)):
        whole = ImageOps.exif_transpose(Image.open(photographs / f"{i:02}.jpg"))
        box, flip = crop.draw(whole.height, whole.width, (32, 48), u)
        want = np.asarray(whole.resize((48, 32), Image.Resampling.BICUBIC, box)).astype(float)
        want = want[:, ::-1] if flip else want
        difference = np.abs(views[j].permute(1, 2, 0).numpy() - want)
        # Not the same: the DCT's reduction is no bicubic filter.
        assert difference[2:-2, 2:-2].mean() < 2.5, f"image {i}"


def test_a_gpu_gets_the_same_crops_as_pixels_and_boxes(photographs: Path) -> None:
    images, plan = photographs_of(photographs), Plan(12, 0, 1)
    here, there = (
        Draws(images, np.arange(12), [Crop()], (32, 32), 5, plan, device)[0]["views"][0]
        for device in (CPU, torch.device("cuda"))
    )
    assert isinstance(there, Regions)
    difference = (there.resized(CPU) * 255 - here.float()).abs()
    assert float(difference.mean()) < 0.15  # where Pillow takes rows first
    assert float((difference <= 1.01).float().mean()) > 0.999
    looked, shipped = (
        next(iter(centred(images, np.arange(12), (32, 32), device=device)))["images"]
        if device == CPU
        else Centred(images, np.arange(12), (32, 32), 12, device)[0]["images"]
        for device in (CPU, torch.device("cuda"))
    )
    assert float((shipped.resized(CPU) * 255 - looked.float()).abs().mean()) < 0.15


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_larger_than_a_piece_come_whole(images: Images, workers: int) -> None:
    draws = Draws(images, np.arange(40), [Crop(), Crop()], (8, 8), 0, Plan(2 * PIECE + 44, 0, 2))
    assert draws.pieces == 2
    parts = list(batches(draws, 1, 3, workers))
    assert [len(v) for part in parts for v in part["views"]] == [PIECE + 22] * 4
    whole = everything(Draws(images, np.arange(40), [Crop()], (8, 8), 0, Plan(50, 0, 1)), 12)
    for part, start in zip(parts, (2 * PIECE + 44, 4 * PIECE + 88), strict=True):
        assert torch.equal(part["views"][0][: 600 - start], whole[start : start + PIECE + 22])


def test_unreadable_images_are_replaced_and_named(tmp_path: Path, scene_folder: Path) -> None:
    good = sorted(scene_folder.rglob("*.png"))[:3]
    for i, file in enumerate(good):
        (tmp_path / f"{i}.png").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:100])
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)
    item = Draws(images, np.arange(4), [Crop()], (16, 16), 0, Plan(4, 0, 1))[0]
    assert item["views"][0].shape == (4, 3, 16, 16)
    assert [name for name, _ in item["skipped"]] == ["broken.png"]
    part = next(iter(centred(images, np.arange(4), (16, 16))))
    assert part["indices"].tolist() == [0, 1, 2]
    assert part["skipped"][0][0] == "broken.png"


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"batch size 9 cannot be shared equally by 2 processes: .* multiple of 2"):
        Plan(9, 0, 2)

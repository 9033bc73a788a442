"""The sample at position i is a function of (seed, i), however it is batched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from maskery.data.augment import Augment
from maskery.data.crops import Crop
from maskery.data.images import Images
from maskery.data.loader import train_batches
from maskery.data.order import positions
from maskery.data.resample import Regions
from maskery.data.sources.open import open_source
from maskery.data.train_dataset import PIECE, RandomCrops, SamplingPlan, TrainDataset, class_labels, uniforms
from maskery.data.transfer import TransferBuffers
from maskery.data.views import CPU, to_float
from maskery.demo import scenes

GPU = torch.device("cuda")  # views are regions for one; none is needed until they are resized there


@pytest.fixture
def images(scene_folder: Path) -> Images:
    return Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)


def crops_of(
    images: Images,
    *plan: int,
    indices: np.ndarray | None = None,
    crops: tuple[Crop, ...] = (Crop(),),
    size: tuple[int, int] = (16, 16),
    seed: int = 0,
    device: torch.device = CPU,
    labelled: bool = False,
    augment: Augment | None = None,
) -> TrainDataset:
    """Random crops of 40 images, or of `indices`; `plan`: batch, rank, ranks."""
    target = class_labels(images.source) if labelled else None
    indices = np.arange(40) if indices is None else indices
    facts = SamplingPlan(size, seed, *plan, device=device)
    return TrainDataset(images, indices, facts, RandomCrops(crops), target, augment)


def everything(data: TrainDataset, steps: int, start: int = 0, workers: int = 0) -> torch.Tensor:
    return torch.cat([part["views"][0] for part in train_batches(data, start, steps, workers)])


def test_random_numbers_belong_to_their_position() -> None:
    assert (uniforms(3, 0, 10, 6) == np.concatenate([uniforms(3, 0, 10, 1), uniforms(3, 0, 11, 5)])).all()
    assert len(np.unique(uniforms(3, 0, 0, 50))) == uniforms(3, 0, 0, 50).size
    assert (uniforms(3, 0, 0, 4) != uniforms(3, 1, 0, 4)).all()
    assert (uniforms(3, 0, 0, 4) != uniforms(4, 0, 0, 4)).all()


def test_ranks_share_one_global_batch(images: Images) -> None:
    whole = everything(crops_of(images, 8), 3)
    parts = [everything(crops_of(images, 8, r, 2), 3) for r in (0, 1)]
    together = torch.cat([torch.cat([p[4 * s : 4 * s + 4] for p in parts]) for s in range(3)])
    assert torch.equal(whole, together)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_and_with_workers_gives_the_same_samples(images: Images, workers: int) -> None:
    data = crops_of(images, 8)
    assert torch.equal(everything(data, 7)[8 * 4 :], everything(data, 7, start=4, workers=workers))


def test_in_memory_or_not_the_samples_are_the_same(images: Images) -> None:
    data = crops_of(images, 8)
    decoded_each_time = everything(data, 3)
    assert images.keep_in_memory(range(40), 1e9)
    assert torch.equal(everything(data, 3), decoded_each_time)
    assert not images.keep_in_memory(range(40), 1000)  # too little room: nothing is kept
    assert not images.memory


def test_views_that_share_a_crop_are_cut_once_and_others_differ(images: Images) -> None:
    first, second = crops_of(images, 8, crops=(Crop(), Crop()))[0]["views"]
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
    images, crop = photographs_of(photographs), Crop(scale=(0.3, 1.0))
    views = crops_of(images, 12, indices=np.arange(12), crops=(crop,), size=(32, 48), seed=5)[0]["views"][0]
    for j, (i, u) in enumerate(zip(positions(12, 5, 0, 12), uniforms(5, 0, 0, 12), strict=True)):
        whole = ImageOps.exif_transpose(Image.open(photographs / f"{i:02}.jpg"))
        view = crop.sample(whole.height, whole.width, (32, 48), u)
        want = np.asarray(whole.resize((48, 32), Image.Resampling.BICUBIC, view.box)).astype(float)
        want = want[:, ::-1] if view.flip else want
        difference = np.abs(views[j].permute(1, 2, 0).numpy() - want)
        # Not the same: the DCT's reduction is no bicubic filter.
        assert difference[2:-2, 2:-2].mean() < 2.5, f"image {i}"


def test_a_gpu_gets_the_same_crops_as_pixels_and_boxes(photographs: Path) -> None:
    images, indices = photographs_of(photographs), np.arange(12)
    here, there = (
        crops_of(images, 12, indices=indices, size=(32, 32), seed=5, device=device)[0]["views"][0]
        for device in (CPU, GPU)
    )
    assert isinstance(there, Regions)
    difference = (there.resized(CPU) * 255 - here.float()).abs()
    assert float(difference.mean()) < 0.15  # where Pillow takes rows first
    assert float((difference <= 1.01).float().mean()) > 0.999


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_larger_than_a_piece_come_whole(images: Images, workers: int) -> None:
    data = crops_of(images, 2 * PIECE + 44, 0, 2, crops=(Crop(), Crop()), size=(8, 8))
    assert data.plan.pieces == 2
    parts = list(train_batches(data, 1, 3, workers))
    assert [len(v) for part in parts for v in part["views"]] == [PIECE + 22] * 4
    whole = everything(crops_of(images, 50, size=(8, 8)), 12)
    for part, start in zip(parts, (2 * PIECE + 44, 4 * PIECE + 88), strict=True):
        assert torch.equal(part["views"][0][: 600 - start], whole[start : start + PIECE + 22])


def test_unreadable_images_are_replaced_and_named(tmp_path: Path, scene_folder: Path) -> None:
    good = sorted(scene_folder.rglob("*.png"))[:3]
    for i, file in enumerate(good):
        (tmp_path / f"{i}.png").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:100])
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)
    item = crops_of(images, 4, indices=np.arange(4))[0]
    assert item["views"][0].shape == (4, 3, 16, 16)
    assert [name for name, _ in item["skipped"]] == ["broken.png"]


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"batch size 9 cannot be shared equally by 2 processes: .* multiple of 2"):
        SamplingPlan((16, 16), 0, 9, 0, 2)


# ---------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(("device", "workers"), [("cpu", 0), ("cpu", 2), ("cuda", 2)])
def test_labels_are_those_of_the_images(images: Images, device: str, workers: int) -> None:
    if device == "cuda" and not TransferBuffers.possible():
        pytest.skip("workers are not forked here")
    assert images.source.labels is not None
    some: Any = {"indices": np.arange(10, 50), "size": (8, 8)}
    data = crops_of(images, 2 * PIECE + 44, 1, 2, device=torch.device(device), labelled=True, **some)
    parts = list(train_batches(data, 1, 3, workers))
    for step, part in enumerate(parts, 1):
        drawn = positions(40, 0, data.plan.start(step), data.plan.per_process_batch)
        assert part["label"].dtype == torch.int64
        assert part["label"].tolist() == images.source.labels[np.arange(10, 50)[drawn]].tolist()
    assert len(torch.cat([part["label"] for part in parts]).unique()) > 1
    assert "label" not in next(train_batches(crops_of(images, 8, **some), 1, 2, 0))


@pytest.fixture
def half_broken(tmp_path: Path) -> Images:
    """Grey levels 0, 20, 40, ...: each is a class of two images, of which the second cannot be read."""
    for i in range(12):
        good, bad = (tmp_path / f"c{i:02}" / name for name in ("a.png", "b.png"))
        good.parent.mkdir()
        Image.new("RGB", (40, 40), (20 * i,) * 3).save(good)
        bad.write_bytes(good.read_bytes()[:60])
    return Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)


def test_an_image_in_the_place_of_another_brings_its_label(half_broken: Images) -> None:
    item = crops_of(half_broken, 24, indices=np.arange(24), size=(8, 8), labelled=True)[0]
    assert len(item["skipped"]) == 12
    assert item["label"].tolist() == (item["views"][0][:, 0, 0, 0] // 20).tolist()
    assert sorted(item["label"].tolist()) == sorted([*range(12)] * 2)


def test_in_the_place_of_an_unreadable_image_comes_the_next_one_round_the_end(half_broken: Images) -> None:
    indices = np.array([1, 3, 10, 5, 4, 7, 9])  # odd ones cannot be read; of colour 20 * (i // 2)
    item = crops_of(half_broken, 7, indices=indices, size=(8, 8))[0]
    read = [int(2 * grey // 20) for grey in item["views"][0][:, 0, 0, 0]]
    instead = {1: 10, 3: 10, 10: 10, 5: 4, 4: 4, 7: 10, 9: 10}
    passed = {1: [1, 3], 3: [3], 5: [5], 7: [7, 9, 1, 3], 9: [9, 1, 3]}
    drawn = [int(indices[at]) for at in positions(7, 0, 0, 7).tolist()]
    assert read == [instead[i] for i in drawn]
    names = [half_broken.source.names[j] for i in drawn for j in passed.get(i, [])]
    assert [name for name, _ in item["skipped"]] == names


def test_no_image_that_can_be_read(half_broken: Images) -> None:
    data = crops_of(half_broken, 2, indices=np.arange(1, 24, 2), size=(8, 8))
    with pytest.raises(ValueError, match=r"none of the 12 training images can be read \(truncated PNG: .*\)$"):
        data[0]


def test_tags_are_labels_where_there_are_no_classes(half_broken: Images) -> None:
    source, tags = half_broken.source, np.random.default_rng(0).integers(0, 2, (24, 5), np.uint8)
    source.labels, source.multi_hot = None, tags
    item = crops_of(half_broken, 24, indices=np.arange(24), size=(8, 8), labelled=True)[0]
    assert item["label"].dtype == torch.float32
    level = item["views"][0][:, 0, 0, 0].numpy() // 20
    assert item["label"].tolist() == tags[2 * level].tolist()
    source.multi_hot = None
    with pytest.raises(ValueError, match="images without labels: "):
        crops_of(half_broken, 24, indices=np.arange(24), size=(8, 8), labelled=True)


# --------------------------------------------------------------------------------------------------- augment
AUGMENT = Augment("rand-m9-mstd0.5-inc1-n3-p0.9", size=(16, 16))


def test_augmented_samples_do_not_depend_on_batches_workers_and_ranks(images: Images) -> None:
    whole = everything(crops_of(images, 2 * PIECE, augment=AUGMENT), 1)
    assert torch.equal(everything(crops_of(images, 8, augment=AUGMENT), 6, start=2, workers=2), whole[16:48])
    ranks = [everything(crops_of(images, 8, r, 2, augment=AUGMENT), 3) for r in (0, 1)]
    assert torch.equal(torch.cat([torch.cat([p[4 * s : 4 * s + 4] for p in ranks]) for s in range(3)]), whole[:24])
    for_gpu = crops_of(images, 8, device=GPU, augment=AUGMENT)
    assert torch.equal(for_gpu[1]["views"][0], whole[8:16])
    assert torch.equal(to_float(for_gpu[1]["views"][0], CPU), whole[8:16].float() / 255)


def test_augmentation_comes_last_and_each_sample_and_crop_has_its_own(images: Images) -> None:
    plain = crops_of(images, 200, crops=(Crop(), Crop()))[0]["views"]
    views = crops_of(images, 200, crops=(Crop(), Crop()), augment=AUGMENT)[0]["views"]
    for c in (0, 1):
        for j, u in enumerate(uniforms(0, c, 0, 100)):
            want = AUGMENT(plain[c][j].permute(1, 2, 0).numpy(), int(u[-1] * 2**53))
            assert (views[c][j].permute(1, 2, 0).numpy() == want).all()
    keys = np.concatenate([uniforms(0, c, 0, 1000)[:, -1] for c in (0, 1)])
    assert len(np.unique((keys * 2**53).astype(np.int64))) == 2000


def test_grey_images_are_augmented_and_deep_ones_refused(scene_folder: Path) -> None:
    source, grey = open_source(scene_folder), Augment("rand-m9", (0.5,), (16, 16))
    images = Images(source, channels=1, bits=8, pages="first", min_side=64)
    assert crops_of(images, 40, augment=grey)[0]["views"][0].shape == (40, 1, 16, 16)
    deep = Images(source, channels=1, bits=16, pages="first", min_side=64)
    with pytest.raises(ValueError, match=r"not of 1 of 16 bits: --settings\.augment none"):
        crops_of(deep, 8, augment=grey)

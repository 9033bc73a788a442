import base64
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.dataset import ImageData, open_data
from maskery.html_report.gallery import COLUMNS, TILE, flat, gallery, nearest
from maskery.nn.vit import ViT, ViTConfig
from maskery.terminal import Quiet

CONFIG = ViTConfig(48, 2, 3, 8, (32, 32))


@pytest.fixture
def data(scene_folder: Path) -> ImageData:
    return open_data(str(scene_folder), ImagesConfig(), (32, 32), Quiet())


def network(seed: int) -> ViT:
    torch.manual_seed(seed)
    return ViT(CONFIG).eval()


def test_neighbours_are_the_nearest_and_never_oneself() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 3.0])
    found = nearest(torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5.0], [0.1], [2.0]]), 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_the_map_keeps_apart_what_differs() -> None:
    torch.manual_seed(0)
    groups = torch.eye(16)[torch.arange(60) % 2] + 0.01 * torch.randn(60, 16)
    places, how = flat(groups)
    x = np.array([p[0] for p in places])
    assert abs(x[::2].mean() - x[1::2].mean()) > 0.8
    assert 0 <= x.min() <= x.max() <= 1
    assert "PCA" in how or "UMAP" in how


def groups(n: int, seed: int = 0) -> torch.Tensor:
    """[n, 64]: image i is of group i % 4."""
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(4, 64, generator=g)[torch.arange(n) % 4] + torch.randn(n, 64, generator=g)


def test_umap_keeps_groups_together_says_so_and_is_the_same_every_time() -> None:
    pytest.importorskip("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        places, how = flat(groups(200))
        for n in (16, 17, 31):  # as few as it takes
            few, same = flat(groups(n))
            assert how == same
            assert len(set(few)) == n
    assert "UMAP" in how
    at = torch.tensor(places)
    assert torch.equal(at.amin(0), torch.zeros(2))
    assert torch.equal(at.amax(0), torch.ones(2))
    apart = torch.cdist(at, at).fill_diagonal_(9).argsort(dim=1)[:, :10]
    assert bool((apart % 4 == (torch.arange(200) % 4)[:, None]).all())
    torch.manual_seed(7)
    np.random.seed(7)
    assert flat(groups(200)) == (places, how)


def test_too_few_for_umap_and_features_that_are_one() -> None:
    assert "PCA" in flat(groups(15))[1]
    one = groups(1).repeat(40, 1)
    places, how = flat(one + 1e-7 * torch.rand(40, 64))
    assert len(set(places)) == 1
    assert "PCA, 0% of the variance" in how


def test_another_package_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "umap.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    assert "PCA" in flat(groups(40))[1]
    monkeypatch.delitem(sys.modules, "umap")


def test_now_is_the_run_and_before_is_its_start(data: ImageData) -> None:
    seen = gallery(data, network(0), network(1), 20)
    turned = gallery(data, network(1), network(0), 20)
    assert seen.held_out
    assert len(seen.dots) == 20
    for a, b in zip(seen.dots, turned.dots, strict=True):
        assert (a.now, a.before) == (b.before, b.now)
    names = [[[d.name for d in side] for side in (row.now, row.before)] for row in seen.rows]
    assert names == [[[d.name for d in side] for side in (row.before, row.now)] for row in turned.rows]
    assert names[0][0] != names[0][1]
    assert [caption for caption, _ in seen.attention[0][1]] == ["image", "before", "now"]
    assert seen.attention[0][1][1][1] == turned.attention[0][1][2][1]
    alone = gallery(data, network(0), None, 20)
    assert alone.dots[0].before is None
    assert alone.rows[0].before == ()
    assert [caption for caption, _ in alone.attention[0][1]] == ["image", "now"]


def test_the_map_is_named_by_the_run_and_not_by_its_start(data: ImageData) -> None:
    flat_one = network(1)
    flat_one.norm.weight.data[2:] = 0  # two directions are all that its features have
    start, run = gallery(data, network(0), flat_one, 15), gallery(data, flat_one, network(0), 15)
    assert "PCA, 100% of the variance" in run.projection
    assert "PCA" in start.projection
    assert run.projection != start.projection


def test_names_labels_and_thumbnails_belong_together(data: ImageData, scene_folder: Path) -> None:
    seen = gallery(data, network(0), None, 20)
    page = Image.open(io.BytesIO(base64.b64decode(seen.sheet.partition(",")[2])))
    assert page.size == (COLUMNS * TILE, TILE)
    for dot in seen.dots:
        assert dot.name.split("/")[1] == dot.label
        tile = page.crop((dot.i * TILE, dot.j * TILE, (dot.i + 1) * TILE, (dot.j + 1) * TILE))
        wanted = Image.open(scene_folder / dot.name).convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(tile, float) - np.asarray(wanted, float)).mean() < 12
    assert {label for label, _ in seen.labels} == {dot.label for dot in seen.dots}


def test_few_images_and_other_channels(data: ImageData, tmp_path: Path) -> None:
    for i in range(4):
        Image.effect_noise((32, 32), 50 + i).save(tmp_path / f"{i}.png")
    grey = open_data(str(tmp_path), ImagesConfig(channels=1), (32, 32), Quiet())
    encoder = ViT(ViTConfig(48, 2, 3, 8, (32, 32), (0.5,), (0.2,))).eval()
    seen = gallery(grey, encoder, None, 20)
    assert not seen.held_out
    assert seen.same_class is None
    assert all(len(row.now) == len(seen.dots) - 1 for row in seen.rows)

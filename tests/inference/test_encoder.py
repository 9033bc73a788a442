from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import maskery
from maskery.inference.encoder import Encoder
from maskery.nn.vit import ViT, ViTConfig
from tests.test_train import TINY

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(ViT(ViTConfig(48, 2, 3, 8, (32, 48)))).eval()


def test_what_load_gives_is_the_network_and_embeds_as_maskery_embed(scene_folder: Path, tmp_path: Path) -> None:
    few = TINY | {"watch": {"looks": 0}, "image_size": (24, 32)}
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=1, **few)
    encoder = maskery.load(tmp_path / "run")
    assert isinstance(encoder, Encoder)
    assert not encoder.training
    assert not encoder.vit.training
    assert encoder.images.bits == 8
    maskery.embed(tmp_path / "run", str(scene_folder), tmp_path / "f.parquet")
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()[::10]
    wanted = torch.tensor([row["embedding"] for row in rows])
    found = encoder.features([scene_folder / row["name"] for row in rows], batch_size=5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_its_state_dict_is_the_networks(encoder: Encoder) -> None:
    """Under timm's names, also within another module; parts and methods of the network are there."""
    assert encoder.state_dict().keys() == encoder.vit.state_dict().keys()
    assert encoder.blocks[0] is encoder.vit.blocks[0]
    assert encoder.attend(torch.rand(1, 3, 32, 48))[1].shape == (1, 24)
    state = {name: t + 1 for name, t in encoder.state_dict().items()}
    other = Encoder(ViT(encoder.config))
    other.load_state_dict(state)
    pair = torch.nn.ModuleList([encoder, torch.nn.Linear(2, 2)])
    assert "0.cls_token" in pair.state_dict()
    again = torch.nn.ModuleList([Encoder(ViT(encoder.config)), torch.nn.Linear(2, 2)])
    again.load_state_dict(pair.state_dict())
    assert torch.equal(again[0].vit.pos_embed, encoder.pos_embed)
    assert torch.equal(other.pos_embed, encoder.pos_embed + 1)
    with pytest.raises(RuntimeError, match="cls_token"):
        other.load_state_dict({})
    with pytest.raises(AttributeError, match="no attribute 'heads'"):
        other.heads()


def test_every_kind_of_image_is_the_same_image(encoder: Encoder, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    expected = encoder.features(IMAGE)
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)
    kinds: list[Any] = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGE), tensor]
    kinds += [IMAGE[None], tensor[None], [IMAGE], IMAGE.astype(np.uint16) * 257]
    for given in kinds[:-1]:
        assert torch.equal(encoder.features(given), expected), type(given)
    for given in (kinds[-1], tensor / 255, IMAGE.astype(np.float32) / 255, IMAGE[None].astype(np.float64) / 255):
        torch.testing.assert_close(encoder.features(given), expected, rtol=0.02, atol=0.02)  # not rounded to levels
    many = encoder.features([tmp_path / "a.png", Image.fromarray(IMAGE), tensor], batch_size=2)
    assert many.shape == (3, 48)
    torch.testing.assert_close(many, expected.expand(3, -1), rtol=1e-5, atol=1e-5)
    turned = Image.fromarray(np.rot90(IMAGE))  # as a camera that was held upright says
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(encoder.features(Image.open(tmp_path / "turned.png")), expected)
    assert torch.equal(encoder.features(tmp_path / "turned.png"), expected)


def test_pools_are_the_networks_tokens(encoder: Encoder) -> None:
    images = torch.rand(3, 3, 32, 48)
    with torch.no_grad():
        class_token, patches = encoder(images)
    assert torch.equal(encoder.features(images), patches.mean(1))
    assert torch.equal(encoder.features(images, "class"), class_token)
    assert torch.equal(encoder.features(images, "both"), torch.cat([class_token, patches.mean(1)], 1))
    assert torch.equal(encoder.features(images, "tokens"), torch.cat([class_token[:, None], patches], 1))
    assert encoder.features(images, device="cpu").grad_fn is None
    encoder.train()
    assert torch.equal(encoder.features(images), patches.mean(1))
    with pytest.raises(ValueError, match="there are no images"):
        encoder.features([])
    assert encoder.training
    encoder.eval()


def test_the_centre_is_seen(encoder: Encoder) -> None:
    other = IMAGE.copy()
    other[:2], other[-1] = 0, 255  # 70 x 50 -> the view's 3:2 leaves out two rows of the height
    assert torch.equal(encoder.features(other), encoder.features(IMAGE))
    other[:, :3] = 0
    assert not torch.equal(encoder.features(other), encoder.features(IMAGE))


def test_channels(encoder: Encoder, tmp_path: Path) -> None:
    grey = np.ascontiguousarray(IMAGE[:, :, 0])
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = encoder.features(np.stack([grey] * 3, axis=2))
    for given in (grey, grey[:, :, None], tmp_path / "grey.png", Image.fromarray(grey)):
        assert torch.equal(encoder.features(given), expected)
    single = Encoder(ViT(ViTConfig(48, 1, 3, 8, (32, 32), (0.5,), (0.2,)))).eval()
    assert single.features([IMAGE, Image.fromarray(IMAGE), grey]).shape == (3, 48)
    assert torch.equal(single.features(IMAGE), single.features(Image.fromarray(IMAGE).convert("L")))
    many = Encoder(ViT(ViTConfig(48, 1, 3, 8, (32, 32), (0.5,) * 5, (0.2,) * 5))).eval()
    assert many.features(torch.rand(2, 5, 40, 40)).shape == (2, 48)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(1, 3, 32, 48) * 255, r"image 0: floats from .* have to lie in \[0, 1\]"),
        (torch.full((3, 32, 48), float("nan")), "have to lie in"),
        (torch.rand(2, 4, 32, 48), "4 channels, the network looks at 3"),
        (np.zeros((32, 48, 2), np.uint8), "2 channels, the network looks at 3"),
        (np.zeros((32, 48, 3), np.int64), "type int64"),
        (np.zeros((5,), np.uint8), "neither an image nor a batch"),
        ([], "there are no images"),
        ([3], "image 0: a int is no image"),
        (7, "images are paths"),
        ("nowhere.png", "nowhere.png: .*No such file"),
        (__file__, "not an image of a format that is read"),
    ],
)
def test_what_is_no_image_is_one_line(encoder: Encoder, images: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        encoder.features(images)
    assert "\n" not in str(e.value)


def test_wrong_words(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="pool is 'max': one of mean, class, both, tokens"):
        encoder.features(IMAGE, "max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="batch_size is 0"):
        encoder.features(IMAGE, batch_size=0)

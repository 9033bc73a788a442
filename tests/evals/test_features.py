from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.data.images import Images
from maskery.data.sources.open import open_source
from maskery.evals.eval_pass import InferenceOptions
from maskery.evals.features import effective_rank, feature_spread, features
from maskery.nn.vit import ViT, ViTConfig


@pytest.fixture
def images(scene_folder: Path) -> Images:
    return Images(open_source(scene_folder), channels=3, bits=8, pages="first", min_side=64)


@pytest.fixture
def encoder() -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig(48, 2, 3, 8, (32, 32))).train()


def test_batches_and_workers_do_not_matter(images: Images, encoder: ViT) -> None:
    indices = np.array([3, 77, 5, 20, 4])
    one = features(encoder, images, indices)
    other = features(encoder, images, indices, InferenceOptions(batch_size=2, workers=1))
    assert one.indices.tolist() == other.indices.tolist() == [3, 77, 5, 20, 4]
    torch.testing.assert_close(one.class_token, other.class_token, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.mean_patch, other.mean_patch, rtol=1e-5, atol=1e-6)
    assert encoder.training  # as it was before


def test_they_are_the_encoders_tokens(images: Images, encoder: ViT) -> None:
    found = features(encoder, images, np.array([7]))
    pixels = torch.from_numpy(images[7].copy()).permute(2, 0, 1)[None] / 255
    class_token, patches = encoder(pixels)
    torch.testing.assert_close(found.class_token, class_token.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean_patch, patches.mean(1).detach(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_is_left_out(tmp_path: Path, scene_folder: Path, encoder: ViT) -> None:
    good = sorted(scene_folder.rglob("*.png"))[0].read_bytes()
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "b.png").write_bytes(good[:99])
    images = Images(open_source(tmp_path), channels=3, bits=8, pages="first", min_side=64)
    found = features(encoder, images, np.array([0, 1]))
    assert found.indices.tolist() == [0]
    assert found.skipped[0][0] == "b.png"


# -------------------------------------------------------------------------------------- rank and spread that are known
def test_the_rank_is_the_number_of_even_directions() -> None:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(64, 64)).Q
    for k in (1, 5, 20):
        x = torch.cat([q[:k], -q[:k]])  # k directions, centred, all equally strong
        assert effective_rank(x) == pytest.approx(k, rel=1e-5)
        assert effective_rank(3 * x + 7) == pytest.approx(k, rel=1e-5)  # neither scale nor the mean of all counts


def test_a_weak_direction_counts_little() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.01], [0.0, -0.01]])
    assert 1 < effective_rank(x) < 1.1


def test_spread() -> None:
    torch.manual_seed(0)
    assert feature_spread(torch.randn(2000, 32)) == pytest.approx(1, abs=0.02)
    assert feature_spread(torch.randn(1, 32).expand(50, 32)) == pytest.approx(0, abs=1e-7)
    assert feature_spread(torch.randn(1, 32) + 0.01 * torch.randn(50, 32)) < 0.02


def test_one_image_or_none_that_differs_is_no_error() -> None:
    assert effective_rank(torch.ones(1, 8)) == pytest.approx(1)
    assert effective_rank(torch.ones(5, 8)) == pytest.approx(1)

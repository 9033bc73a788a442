"""Features are deterministic, unmasked, and do not depend on how they are computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskery.data.images import Images
from maskery.data.sources.open import open_source
from maskery.evals.features import features
from maskery.evals.inference_options import InferenceOptions
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
    one, other = (
        features(encoder, images, indices),
        features(encoder, images, indices, InferenceOptions(batch_size=2, workers=1)),
    )
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
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        features(encoder, images, np.array([1]))

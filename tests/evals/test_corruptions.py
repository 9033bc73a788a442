import io

import numpy as np
import pytest
from PIL import Image

from maskery.demo import scenes
from maskery.evals.corruptions import BENCHMARK, EXTRA, SEVERITIES, check_corruptible, corrupt

EVERY = (*BENCHMARK, *EXTRA)
FIXED = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast"),
    *("pixelate", "jpeg_compression", "gaussian_blur", "saturate"),
)  # nothing is drawn


def scene(height: int = 48, width: int = 48) -> np.ndarray:
    image = Image.fromarray(scenes.scene(0, 3, 64).image)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (64, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_colour_and_grey(size: tuple[int, int], channels: int) -> None:
    image = scene(*size)[:, :, :channels]
    assert (len(BENCHMARK), len(EXTRA), len(set(EVERY))) == (15, 4, 19)
    for name in EVERY:
        for severity in (1, 5):
            out = corrupt(image, name, severity, 0, 0)
            assert (out.shape, out.dtype) == (image.shape, np.uint8), name
            if not (channels == 1 and name == "saturate" and severity == 1):  # grey has no colour to take away
                assert (out != image).any(), name


@pytest.mark.parametrize("name", EVERY)
def test_a_result_follows_from_seed_image_name_and_severity_alone(name: str) -> None:
    image = scene(32, 32)
    np.random.seed(5)
    first, after = corrupt(image, name, 3, 0, 17), np.random.rand()
    np.random.seed(5)
    assert np.random.rand() == after  # draws of other code are not touched
    np.random.seed(99)
    assert np.array_equal(corrupt(image.copy(), name, 3, 0, 17), first)
    if name not in FIXED:
        assert (corrupt(image, name, 3, 1, 17) != first).any()
        assert (corrupt(image, name, 3, 0, 18) != first).any()


def test_severities_go_further_from_the_image() -> None:
    image = scene().astype(float)
    for name in set(BENCHMARK) - {"elastic_transform"}:  # whose second severity is the worst for AlexNet too
        far = [np.abs(corrupt(scene(), name, s, 0, 0) - image).mean() for s in (1, 5)]
        assert far[1] > far[0], name


GREY = np.full((96, 96, 3), 128, np.uint8)


@pytest.mark.parametrize(("severity", "sigma"), list(zip(SEVERITIES, (0.08, 0.12, 0.18, 0.26, 0.38), strict=True)))
def test_gaussian_noise_has_the_papers_deviation(severity: int, sigma: float) -> None:
    noise = corrupt(GREY, "gaussian_noise", severity, 0, 0) / 255 - 128 / 255
    drawn = np.clip(128 / 255 + np.random.default_rng(0).normal(0, sigma, 96 * 96 * 3), 0, 1) - 128 / 255
    assert noise.std() == pytest.approx(drawn.std(), rel=0.02)
    grey = corrupt(GREY[:, :, :1], "gaussian_noise", severity, 0, 0) / 255 - 128 / 255
    assert grey.std() == pytest.approx(drawn.std(), rel=0.03)  # not that of three channels averaged


@pytest.mark.parametrize(("severity", "amount"), list(zip(SEVERITIES, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True)))
def test_impulse_noise_hits_the_papers_share(severity: int, amount: float) -> None:
    out = corrupt(GREY, "impulse_noise", severity, 0, 0)
    expected = out.size * amount / 2
    for value in (0, 255):
        assert abs((out == value).sum() - expected) < 4 * expected**0.5


@pytest.mark.parametrize(("severity", "c"), list(zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True)))
def test_contrast_is_the_formula(severity: int, c: float) -> None:
    x = scene() / 255
    mean = x.mean((0, 1), keepdims=True)
    assert np.array_equal(corrupt(scene(), "contrast", severity, 0, 0), np.uint8(((x - mean) * c + mean) * 255))


@pytest.mark.parametrize(("severity", "quality"), list(zip(SEVERITIES, (25, 18, 15, 10, 7), strict=True)))
def test_jpeg_has_the_papers_quality(severity: int, quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, "JPEG", quality=quality)
    assert np.array_equal(corrupt(scene(), "jpeg_compression", severity, 0, 0), np.array(Image.open(file)))


def test_brightness_of_grey_is_a_sum() -> None:
    for severity, c in zip(SEVERITIES, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        out = corrupt(GREY, "brightness", severity, 0, 0)
        assert np.abs(out - min(255.0, 128 + 255 * c)).max() <= 1


def test_elastic_displacements_are_of_the_papers_size() -> None:
    """A ramp shows how far each pixel came from: the smooth field has deviation alpha / (sigma sqrt(12 pi))."""
    ramp = np.repeat(np.tile(np.arange(224, dtype=np.uint8), (224, 1))[:, :, None], 3, axis=2)
    for severity, alpha, sigma in ((3, 12.2, 2.44), (5, 29.28, 2.44)):
        moved = corrupt(ramp, "elastic_transform", severity, 0, 0)[40:-40, 40:-40, 0].astype(float)
        y, x = np.mgrid[: moved.shape[0], : moved.shape[1]]
        plane = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        rest = moved.ravel() - plane @ np.linalg.lstsq(plane, moved.ravel(), rcond=None)[0]  # without the affine map
        assert rest.std() == pytest.approx(alpha / (sigma * np.sqrt(12 * np.pi)), rel=0.1), severity
    middle = np.s_[80:144, 80:144, 0]
    wide = [corrupt(ramp, "elastic_transform", 2, s, 0)[middle] - ramp[middle].astype(float) for s in range(6)]
    assert 8 < np.abs(wide).mean() < 40  # corners move by up to 48.8 pixels, whole parts of the picture with them


def test_what_cannot_be_corrupted_is_said() -> None:
    check_corruptible(32, 32, 1, 8)
    for shape, words in (
        ((32, 32, 5, 8), "these images have 5 of 8 bits"),
        ((32, 32, 1, 16), "these images have 1 of 16 bits"),
        ((24, 40, 3, 8), "32 x 32 pixels or more, the network sees 24 x 40"),
    ):
        with pytest.raises(ValueError, match=words):
            check_corruptible(*shape)
    for name, severity in (("rain", 1), ("fog", 0)):
        with pytest.raises(ValueError, match=f"no corruption '{name}' of severity {severity}"):
            corrupt(scene(), name, severity, 0, 0)


def test_severities_draw_their_own_noise() -> None:
    first, second = (corrupt(GREY, "gaussian_noise", s, 0, 0).ravel().astype(float) for s in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05

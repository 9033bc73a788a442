"""Strong augmentation: every operation is torchvision's, applied to every sample as it was drawn."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from maskery.data.photometric import Drawn, Strong

CPU = torch.device("cpu")
B = 6


def images(channels: int = 3, height: int = 40, width: int = 56) -> Tensor:
    """Colours from black to white, and grey, where hue is not defined."""
    torch.manual_seed(0)
    x = torch.rand(B, channels, height, width)
    x[:, :, :4], x[:, :, 4:6], x[:, :, 6:8], x[:, :, 8:12] = 0.0, 0.3, 1.0, x[:, :1, 8:12]
    x[:, :, 12:16] = (x[:, :, 12:16] * 2).round() / 2  # equal channels
    return x


def nothing(**drawn: Tensor) -> Drawn:
    one, zero = torch.ones(B), torch.zeros(B)
    return Drawn(one, one, one, zero, zero, zero, zero.bool())._replace(**drawn)


FACTORS = torch.tensor([0.0, 0.6, 1.0, 1.4, 0.9, 1.9])
TURNS = torch.tensor([-0.5, -0.1, 0.0, 0.07, 0.1, 0.5])


@pytest.mark.parametrize(
    ("name", "values", "theirs"),
    [
        ("brightness", FACTORS, TF.adjust_brightness),
        ("contrast", FACTORS, TF.adjust_contrast),
        ("saturation", FACTORS, TF.adjust_saturation),
        ("hue", TURNS, TF.adjust_hue),
        ("grey", FACTORS.lt(1).float(), lambda x, on: TF.rgb_to_grayscale(x, 3) if on else x),
        ("solarize", FACTORS > 1, lambda x, on: TF.solarize(x, 0.5) if on else x),
    ],
)
def test_each_operation_is_torchvisions(name: str, values: Tensor, theirs) -> None:
    x = images()
    ours = Strong()(x, nothing(**{name: values}))
    for i, value in enumerate(values.tolist()):
        torch.testing.assert_close(ours[i], theirs(x[i], value), rtol=0, atol=2e-6)
    assert not torch.equal(ours, x)


@pytest.mark.parametrize(("height", "width"), [(224, 240), (448, 500), (32, 40)])
def test_blur_is_torchvisions_and_scales_with_the_short_side(height: int, width: int) -> None:
    x = images(3, height, width)
    sigma = torch.tensor([0.0, 0.1, 0.7, 1.3, 2.0, 2.0])
    ours, scale = Strong()(x, nothing(sigma=sigma)), height / 224
    assert torch.equal(ours[0], x[0])
    size = 2 * -int(-6 * scale // 1) + 1
    for i in range(1, B):
        torch.testing.assert_close(ours[i], TF.gaussian_blur(x[i], size, float(sigma[i]) * scale), rtol=0, atol=3e-6)


def test_all_of_them_in_the_order_that_is_promised() -> None:
    x, strong = images(height=300, width=230), Strong()
    torch.manual_seed(5)
    drawn = Strong(p_jitter=1, p_grey=0.5, p_blur=1, p_solarize=0.5).draw(B, CPU)
    assert 0 < drawn.grey.sum() < B
    assert 0 < drawn.solarize.sum() < B
    ours = strong(x, drawn)
    for i in range(B):
        y = TF.adjust_brightness(x[i], float(drawn.brightness[i]))
        y = TF.adjust_contrast(y, float(drawn.contrast[i]))
        y = TF.adjust_saturation(y, float(drawn.saturation[i]))
        y = TF.adjust_hue(y, float(drawn.hue[i]))
        y = TF.rgb_to_grayscale(y, 3) if drawn.grey[i] else y
        y = TF.gaussian_blur(y, 15, float(drawn.sigma[i]) * 230 / 224)
        y = TF.solarize(y, 0.5) if drawn.solarize[i] else y
        off = (ours[i] - y).abs() > 1e-5
        assert off.float().mean() < 1e-4  # a pixel of 0.49999999 may be solarised in one of them only


def test_what_is_not_drawn_changes_nothing() -> None:
    x = images()
    assert torch.equal(Strong()(x, nothing()), x)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_other_channels_have_no_colours(channels: int) -> None:
    x = images(channels)
    colours = nothing(saturation=FACTORS, hue=TURNS, grey=torch.ones(B))
    assert torch.equal(Strong()(x, colours), x)
    drawn = nothing(brightness=FACTORS, contrast=FACTORS.flip(0), solarize=FACTORS > 0.9)
    ours = Strong()(x, drawn)
    for i in range(B):
        y = (x[i] * FACTORS[i]).clamp(0, 1)
        y = (y.mean() + FACTORS.flip(0)[i] * (y - y.mean())).clamp(0, 1)
        y = torch.where(y >= 0.5, 1 - y, y) if drawn.solarize[i] else y
        assert ((ours[i] - y).abs() > 1e-5).float().mean() < 1e-3
    if channels == 1:
        torch.testing.assert_close(
            Strong()(x, nothing(contrast=FACTORS))[3], TF.adjust_contrast(x[3], float(FACTORS[3]))
        )


def test_frequencies_and_ranges() -> None:
    torch.manual_seed(0)
    n = 20_000
    drawn = Strong().draw(n, CPU)
    jitter = drawn.brightness != 1
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.8, 1.2)):
        values = getattr(drawn, name)[jitter]
        assert low <= float(values.min()) < low + 0.01, name
        assert high - 0.01 < float(values.max()) <= high, name
        assert abs(float(values.mean()) - 1) < 0.01, name
        assert (getattr(drawn, name)[~jitter] == 1).all(), name
    assert -0.1 <= float(drawn.hue.min()) < -0.099
    assert 0.099 < float(drawn.hue.max()) <= 0.1
    assert (drawn.hue[~jitter] == 0).all()
    sigma = drawn.sigma[drawn.sigma > 0]
    assert 0.1 <= float(sigma.min()) < 0.11
    assert 1.99 < float(sigma.max()) <= 2.0
    shares = [x.float().mean() for x in (jitter, drawn.grey, drawn.sigma > 0, drawn.solarize)]
    assert [round(float(x), 2) for x in shares] == pytest.approx([0.8, 0.2, 0.5, 0.2], abs=0.011)
    assert abs(float(torch.corrcoef(torch.stack([drawn.grey, drawn.solarize.float()]))[0, 1])) < 0.03


def test_samples_differ_and_a_draw_can_be_repeated() -> None:
    x = images()[:1].expand(B, -1, -1, -1)
    strong = Strong(p_jitter=1)
    torch.manual_seed(3)
    drawn = strong.draw(B, CPU)
    one = strong(x, drawn)
    assert torch.equal(one, strong(x, drawn))
    assert all(not torch.equal(one[0], other) for other in one[1:])
    torch.manual_seed(3)
    assert torch.equal(one, strong(x, strong.draw(B, CPU)))
    assert not torch.equal(one, strong(x, strong.draw(B, CPU)))
    torch.testing.assert_close(strong(x[2:3], Drawn(*(d[2:3] for d in drawn))), one[2:3])  # samples do not mix


def test_images_stay_in_range_and_are_not_written_to() -> None:
    strong = Strong(brightness=3, contrast=3, saturation=3, hue=0.5, p_jitter=1, p_blur=1, sigma=(1, 500), p_solarize=1)
    for shape in ((64, 3, 8, 24), (64, 1, 1, 1), (64, 5, 16, 2)):
        torch.manual_seed(1)
        x = torch.rand(shape)
        before = x.clone()
        y = strong(x, strong.draw(64, CPU))
        assert torch.equal(x, before)
        assert y.shape == x.shape
        assert 0 <= float(y.min()) <= float(y.max()) <= 1


def test_autocast_changes_nothing() -> None:
    x, strong = images(), Strong()
    drawn = strong.draw(B, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        ours = strong(x, drawn)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, strong(x, drawn))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"brightness": -0.1}, "strong brightness is -0.1: at least 0"),
        ({"hue": 0.6}, "strong hue is 0.6: turns of the colour circle, between 0 and 0.5"),
        ({"p_grey": 1.5}, "strong p_grey is 1.5: a probability between 0 and 1"),
        ({"sigma": (2.0, 1.0)}, r"strong sigma is \(2.0, 1.0\): two sizes in pixels"),
        ({"sigma": (0.0, 1.0)}, r"strong sigma is \(0.0, 1.0\): two sizes in pixels"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Strong(**settings)

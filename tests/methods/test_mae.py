"""MAE equals its reference: facebookresearch/mae at efb2a80, float32 on a CPU."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from maskery.data.crops import Crop
from maskery.methods.mae import MAE, MAEConfig
from maskery.nn import masking
from maskery.nn.decoder import DecoderSize
from maskery.nn.targets import pixels
from maskery.nn.vit import SIZES, ViTConfig
from maskery.optim import grouped

REFERENCE = Path(__file__).parents[1] / "fixtures" / "mae_official.safetensors"
VIT = ViTConfig(48, 3, 3, 8, (64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the images are normalised already


def our_name(name: str) -> str:
    if name == "mask_token":
        return "decoder.mask_token"
    return f"decoder.{name.removeprefix('decoder_')}" if name.startswith("decoder_") else f"encoder.{name}"


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(REFERENCE)


def mae(reference: dict[str, Tensor], norm_pix: bool = True) -> MAE:
    method = MAE(MAEConfig(norm_pix=norm_pix, decoder=DecoderSize(32, 2, 4)), VIT)
    weights = {our_name(k.removeprefix("weights/")): v for k, v in reference.items() if k.startswith("weights/")}
    method.load_state_dict(weights, strict=True)
    return method


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs).norm() / theirs.norm())


def test_mask_latent_and_prediction(reference: dict[str, Tensor]) -> None:
    method = mae(reference, norm_pix=False)
    mask = masking.hide_highest(reference["noise"], 0.75)
    torch.testing.assert_close(mask.hidden, reference["mask"], rtol=0, atol=0)
    torch.testing.assert_close(mask.restore, reference["ids_restore"], rtol=0, atol=0)
    latent = method.encoder.encode(reference["images"], mask)
    assert relative(latent, reference["latent"]) < 1e-5
    assert relative(method.decoder(latent, mask), reference["pred"]) < 1e-5


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_every_gradient(reference: dict[str, Tensor], norm_pix: bool) -> None:
    method, kind = mae(reference, norm_pix), "norm_pix" if norm_pix else "raw_pix"
    batch = {"image": reference["images"], "mask": masking.hide_highest(reference["noise"], 0.75)}
    loss = method(batch, 0.0)["loss"]
    assert relative(loss, reference[f"loss/{kind}"]) < 1e-5
    loss.backward()
    prefix = f"grad/{kind}/"
    expected = {our_name(k.removeprefix(prefix)): v for k, v in reference.items() if k.startswith(prefix)}
    found = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative(found[name], gradient) < 1e-5, name


@pytest.mark.parametrize(
    ("model", "patch_size", "parameters"),
    [("vit-base", 16, 111_907_840), ("vit-large", 16, 329_541_888), ("vit-huge", 14, 657_074_508)],
)
def test_parameter_counts(model: str, patch_size: int, parameters: int) -> None:
    size = SIZES[model]
    with torch.device("meta"):
        method = MAE(MAEConfig(), ViTConfig(size.dim, size.depth, size.heads, patch_size))
    assert sum(p.numel() for p in method.parameters()) == parameters


@pytest.mark.parametrize("norm_pix", [True, False])
def test_only_hidden_patches_have_a_loss(reference: dict[str, Tensor], norm_pix: bool) -> None:
    """The mean over hidden patches of all predictions, the way it is written in the paper, and all its gradients."""
    method, images = mae(reference, norm_pix), reference["images"]
    mask = masking.hide_highest(reference["noise"], 0.75)
    error = (method.predict(images, mask) - pixels(images, 8, norm_pix)).square().mean(-1)
    assert error.shape == (4, 64)
    expected = (error * mask.hidden).sum() / mask.hidden.sum()
    loss = method({"image": images, "mask": mask}, 0.0)["loss"]
    assert relative(loss, expected.detach()) < 1e-6
    parameters = [p for p in method.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(value, parameters) for value in (loss, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert relative(mine, theirs) < 1e-5


def test_predictions_do_not_see_hidden_pixels(reference: dict[str, Tensor]) -> None:
    method, images = mae(reference), reference["images"].clone()
    mask = masking.hide_highest(reference["noise"], 0.75)
    before = method.decoder(method.encoder.encode(images, mask), mask)
    n = int(mask.hidden[0].nonzero()[3])
    row, column = divmod(n, 8)
    images[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
    torch.testing.assert_close(method.decoder(method.encoder.encode(images, mask), mask), before, rtol=0, atol=0)


def test_the_order_of_kept_patches_does_not_matter(reference: dict[str, Tensor]) -> None:
    method = mae(reference)
    mask = masking.hide_highest(reference["noise"], 0.75)
    k = mask.keep.shape[1]
    order = torch.randperm(k)
    inverse = order.argsort()
    restore = torch.where(mask.hidden == 0, inverse[mask.restore.clamp_max(k - 1)], mask.restore)
    other = masking.Mask(mask.hidden, mask.keep[:, order], restore)
    predictions = [method.decoder(method.encoder.encode(reference["images"], m), m) for m in (mask, other)]
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-5, atol=1e-5)


def test_weight_decay_groups(reference: dict[str, Tensor]) -> None:
    method = mae(reference)
    decayed, plain = grouped(method, 0.05)
    names = {id(p): name for name, p in method.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert {"encoder.cls_token", "decoder.mask_token"} <= {names[id(p)] for p in decayed["params"]}
    assert all(names[id(p)].endswith((".bias", "norm1.weight", "norm2.weight", "norm.weight")) for p in plain["params"])
    frozen = {"encoder.pos_embed", "decoder.pos_embed"}
    assert not frozen & {names[id(p)] for group in (decayed, plain) for p in group["params"]}
    together = len(decayed["params"]) + len(plain["params"])
    assert together == len(names) - len(frozen)


def test_another_image_size_and_channels() -> None:
    method = MAE(MAEConfig(decoder=DecoderSize(32, 1, 4)), ViTConfig(48, 1, 3, 8, (32, 64), (0.5,) * 5, (0.2,) * 5))
    assert method({"image": torch.rand(2, 5, 32, 64)}, 0.0)["loss"].isfinite()
    assert method({"image": torch.rand(2, 5, 48, 40)}, 0.0)["loss"].isfinite()


def test_pictures(reference: dict[str, Tensor]) -> None:
    method = mae(reference)
    batch = method.sample({"image": torch.rand(2, 3, 64, 64)}, 0.0)
    columns = method.picture(batch)
    original, masked = columns["original"], columns["masked"]
    torch.testing.assert_close(original, batch["image"])
    hidden = (
        batch["mask"].hidden.view(2, 8, 8).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(original)
    )
    torch.testing.assert_close(masked[hidden == 0], original[hidden == 0])
    torch.testing.assert_close(masked[hidden == 1], torch.full_like(masked[hidden == 1], 0.5))
    put_back = next(v for k, v in columns.items() if "true mean" in k)
    torch.testing.assert_close(put_back[hidden == 0], original[hidden == 0])
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1 for v in columns.values())


def test_its_view_is_the_runs_crop(reference: dict[str, Tensor]) -> None:
    crop = Crop()
    assert mae(reference).views(crop) == {"image": crop}

"""MSA: MAE with a teacher that sees the whole strong view. Its limits, its switches, its losses by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskery import config as configs
from maskery.commands.pretrain import PretrainOptions
from maskery.config import Run
from maskery.data.crops import Crop
from maskery.data.photometric import Strong
from maskery.methods.mae import MAE, MAEConfig
from maskery.methods.msa import MSA, MSAConfig, distance, shifted
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig
from maskery.objective import Batch
from maskery.options import UsageError, options, parse
from maskery.runs.directory import read_config
from maskery.weights.load import start_from

VIT = ViTConfig(48, 2, 3, 8, (32, 32))  # N 16, K 4
SMALL = DecoderSize(32, 1, 4)
B, N, K, D = 3, 16, 4, 48


def msa(**settings) -> MSA:
    """Seeded; the teacher is another network than the student, as after some steps."""
    torch.manual_seed(0)
    method = MSA(MSAConfig(**{"decoder": SMALL} | settings), VIT)
    if method.teacher is not None:
        with torch.no_grad():
            for p in method.teacher.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return method


def batch_of(method: MSA, seed: int = 1) -> Batch:
    torch.manual_seed(seed)
    return method.sample({"image": torch.rand(B, 3, 32, 32)}, 0.0)


def tokens(method: MSA, batch: Batch, teacher_mask: bool = False) -> tuple[Tensor, Tensor]:
    """Predictions q and the teacher's tokens y, each by the parts alone."""
    z = method.encoder.encode(method.encoder.normalise(batch["image"]), batch["mask"])
    q = method.feature_decoder.predict(z, batch["mask"])
    y = method.xi.encode(method.xi.normalise(batch["strong"]), batch["mask"] if teacher_mask else None)
    return q.detach(), y.detach()


def value(method: MSA, batch: Batch, name: str = "alignment") -> float:
    return float(method(batch, 0.0)[name].detach())


def norm(y: Tensor) -> Tensor:
    return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()


def cosine_distance(q: Tensor, v: Tensor) -> float:
    return float(2 - 2 * (q @ v) / (q.norm() * v.norm()))


# ----------------------------------------------------------------------------------------------------- limits


def test_without_alignment_it_is_mae_bit_for_bit() -> None:
    torch.manual_seed(0)
    ours = MSA(MSAConfig(lam=0.0, decoder=SMALL), VIT)
    torch.manual_seed(0)
    mae = MAE(MAEConfig(decoder=SMALL), VIT)
    losses = []
    for method in (ours, mae):
        torch.manual_seed(3)
        image = torch.rand(B, 3, 32, 32)
        losses.append(method({"image": image}, 0.5)["loss"])
        losses[-1].backward()
    assert torch.equal(losses[0], losses[1])
    gradients = dict(ours.named_parameters())
    for name, p in mae.named_parameters():
        assert torch.equal(gradients[name], p)
        assert p.grad is None or torch.equal(gradients[name].grad, p.grad), name
    assert not any(p.grad.any() for p in ours.feature_decoder.parameters() if p.requires_grad)


def test_another_photometry_leaves_the_reconstruction_as_it_is() -> None:
    method = msa()
    batch = batch_of(method)
    other = batch | {"strong": Strong(p_jitter=1)(batch["image"], Strong(p_jitter=1).draw(B, torch.device("cpu")))}
    one, two = method(batch, 0.0), method(other, 0.0)
    assert torch.equal(one["reconstruction"], two["reconstruction"])
    assert not torch.equal(one["alignment"], two["alignment"])
    assert torch.equal(method.student_input(batch), batch["image"])


def test_alignment_reaches_the_encoder_and_neither_pixel_decoder_nor_teacher() -> None:
    method = msa()
    method(batch_of(method), 0.0)["alignment"].backward()
    for name, p in method.named_parameters():
        reached = name.startswith(("encoder.", "feature_decoder.")) and not name.endswith("pos_embed")
        assert (p.grad is not None and bool(p.grad.any())) == reached, name


def test_a_shared_teacher_gets_no_gradient_as_teacher() -> None:
    method = msa(teacher="shared")
    assert not [name for name in method.state_dict() if name.startswith("teacher.")]
    batch = batch_of(method)
    method(batch, 0.0)["alignment"].backward()
    ours = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    y = copy.deepcopy(method.encoder).requires_grad_(False).encode(method.encoder.normalise(batch["strong"]))
    q = method.feature_decoder(
        method.encoder.encode(method.encoder.normalise(batch["image"]), batch["mask"]), batch["mask"]
    )
    (2 - 2 * F.cosine_similarity(q, F.layer_norm(y[:, 1:], (D,)), dim=-1)).mean().backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, dict(method.named_parameters())[name].grad, msg=name)
    before = copy.deepcopy(method.state_dict())
    method.after_step(0.5)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def lengths(method: MSA) -> dict[str, int]:
    """How many tokens the student's and the teacher's first block see in one forward."""
    seen: dict[str, int] = {}

    def note(name: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].shape[1]

        return hook

    method.encoder.blocks[0].register_forward_pre_hook(note("student"))
    assert method.teacher is not None
    method.teacher.net.blocks[0].register_forward_pre_hook(note("teacher"))
    method(batch_of(method), 0.0)
    return seen


def test_how_many_tokens_each_branch_sees() -> None:
    assert lengths(msa()) == {"student": K + 1, "teacher": N + 1}
    assert lengths(msa(teacher_mask="same")) == {"student": K + 1, "teacher": K + 1}


def test_both_views_flip_together() -> None:
    """One crop object is all that is asked for, and no change of the strong view moves a pixel."""
    crop, method = Crop(), msa()
    assert list(method.views(crop).values()) == [crop]
    batch = batch_of(method)
    torch.manual_seed(1)
    torch.rand(B, 3, 32, 32)
    flipped = method.sample({"image": batch["image"].flip(-1)}, 0.0)
    torch.testing.assert_close(flipped["strong"], batch["strong"].flip(-1))
    assert not torch.equal(batch["strong"], batch["image"])


def test_the_teacher_follows_the_student() -> None:
    method = msa(momentum=0.9)
    assert method.teacher is not None
    for t, a in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        before = copy.deepcopy(method.teacher.net.state_dict())
        method.after_step(t)
        for name, new in method.teacher.net.state_dict().items():
            torch.testing.assert_close(new, a * before[name] + (1 - a) * method.encoder.state_dict()[name])
    assert not any(p.requires_grad for p in method.teacher.parameters())


# ----------------------------------------------------------------------------------------------------- losses by hand


@pytest.mark.parametrize("align_on", ["all", "masked", "visible"])
def test_dense_alignment_by_hand(align_on: str) -> None:
    method = msa(align_on=align_on, lam=0.3)
    batch = batch_of(method)
    losses = {name: loss.detach() for name, loss in method(batch, 0.0).items()}
    q, y = tokens(method, batch)
    places = {"all": [0, 1], "masked": [1], "visible": [0]}[align_on]
    terms, targets = [], []
    for b in range(B):
        for n in range(N):
            if int(batch["mask"].hidden[b, n]) in places:
                targets.append(norm(y[b, 1 + n]))
                terms.append(cosine_distance(q[b, 1 + n], targets[-1]))
    assert float(losses["alignment"]) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + 0.3 * losses["alignment"])
    spread = sum(math.sqrt(((c - c.mean()) ** 2).mean()) for c in torch.stack(targets).T) / D
    assert float(losses["target_spread"]) == pytest.approx(spread, rel=1e-4)


def test_class_and_mean_alignment_by_hand() -> None:
    method = msa()
    batch = batch_of(method)
    q, y = tokens(method, batch)
    expected = sum(cosine_distance(q[b, 0], norm(y[b, 0])) for b in range(B)) / B
    assert value(msa(align="class"), batch) == pytest.approx(expected, rel=1e-5)
    expected = sum(cosine_distance(q[b, 1:].mean(0), norm(y[b, 1:].mean(0))) for b in range(B)) / B
    assert value(msa(align="mean"), batch) == pytest.approx(expected, rel=1e-5)
    hidden = batch["mask"].hidden == 1
    expected = (
        sum(cosine_distance(q[b, 1:][hidden[b]].mean(0), norm(y[b, 1:][hidden[b]].mean(0))) for b in range(B)) / B
    )
    assert value(msa(align="mean", align_on="masked"), batch) == pytest.approx(expected, rel=1e-5)


def test_smooth_l1_by_hand() -> None:
    method = msa(align_loss="smooth_l1")
    batch = batch_of(method)
    q, y = tokens(method, batch)
    off = (q[:, 1:] - norm(y[:, 1:])).abs()
    assert (off > 1).any()
    assert (off < 1).any()
    expected = torch.where(off < 1, 0.5 * off**2, off - 0.5).mean()
    torch.testing.assert_close(method(batch, 0.0)["alignment"].detach(), expected)


@pytest.mark.parametrize("align", ["dense", "class", "mean"])
def test_infonce_by_hand(align: str) -> None:
    method = msa(align=align, align_loss="infonce", tau=0.3)
    batch = batch_of(method)
    q, y = tokens(method, batch)
    if align == "dense":
        groups = [(q[b, 1:], y[b, 1:]) for b in range(B)]  # negatives: the other places of the same image
    else:
        pool = {"class": lambda x: x[:, 0], "mean": lambda x: x[:, 1:].mean(1)}[align]
        groups = [(pool(q), pool(y))]  # negatives: the other images
    terms = []
    for ours, theirs in groups:
        v = norm(theirs)
        for i in range(len(ours)):
            cos = [float(ours[i] @ v[j] / (ours[i].norm() * v[j].norm())) / 0.3 for j in range(len(v))]
            terms.append(-math.log(math.exp(cos[i]) / sum(map(math.exp, cos))))
    expected = 2 * 0.3 * sum(terms) / len(terms)
    assert value(method, batch) == pytest.approx(expected, rel=1e-4)


def test_known_values_of_the_distances() -> None:
    v = F.layer_norm(torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0)), (D,))
    cosine, infonce = MSAConfig(), MSAConfig(align_loss="infonce")
    torch.testing.assert_close(distance(7 * v, v, cosine), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(distance(-v, v, cosine), torch.tensor(4.0))
    same = torch.ones(2, 5, D)
    torch.testing.assert_close(distance(same, same, infonce), torch.tensor(0.4 * math.log(5)))
    torch.testing.assert_close(distance(v, v, MSAConfig(align_loss="smooth_l1")), torch.tensor(0.0))


def test_collapse_shows() -> None:
    method = msa()
    batch = batch_of(method)
    healthy = value(method, batch, "target_spread")
    assert method.teacher is not None
    with torch.no_grad():
        method.teacher.net.norm.weight.zero_()
        method.teacher.net.norm.bias.normal_()
    collapsed = value(method, batch, "target_spread")
    assert collapsed < 1e-5
    assert healthy > 0.2


# ----------------------------------------------------------------------------------------------------- switches


def test_the_strong_view_in_the_student_is_what_it_reconstructs() -> None:
    method = msa(student_view="strong")
    batch = batch_of(method)
    mae = MAE(MAEConfig(decoder=SMALL), VIT)
    mae.load_state_dict({k: v for k, v in method.state_dict().items() if k in mae.state_dict()})
    losses = method(batch, 0.0)
    torch.testing.assert_close(
        losses["reconstruction"], mae({"image": batch["strong"], "mask": batch["mask"]}, 0.0)["loss"]
    )
    assert not torch.equal(losses["reconstruction"], msa()(batch, 0.0)["reconstruction"])
    same = msa(student_view="strong", teacher_view="weak")(batch, 0.0)
    assert torch.equal(same["reconstruction"], losses["reconstruction"])
    assert not torch.equal(same["alignment"], losses["alignment"])


def test_a_weak_view_for_the_teacher() -> None:
    method = msa(teacher_view="weak")
    batch = batch_of(method)
    assert "strong" not in batch
    expected = msa()(batch | {"strong": batch["image"]}, 0.0)["alignment"]
    assert torch.equal(method(batch, 0.0)["alignment"], expected)
    assert not torch.equal(msa()(batch_of(msa()), 0.0)["alignment"], expected)


@pytest.mark.parametrize("align_on", ["all", "visible"])
def test_a_teacher_under_the_students_mask_teaches_visible_patches(align_on: str) -> None:
    method = msa(teacher_mask="same", align_on=align_on)
    batch = batch_of(method)
    q, y = tokens(method, batch, teacher_mask=True)
    terms = [
        cosine_distance(q[b, 1 + int(batch["mask"].keep[b, k])], norm(y[b, 1 + k])) for b in range(B) for k in range(K)
    ]
    assert value(method, batch) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    pixels = batch["strong"].clone()
    row, column = divmod(int(batch["mask"].hidden[0].nonzero()[0]), 4)
    pixels[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.1
    hidden = batch | {"strong": pixels}
    assert torch.equal(method(batch, 0.0)["alignment"], method(hidden, 0.0)["alignment"])
    assert not torch.equal(msa()(batch, 0.0)["alignment"], msa()(hidden, 0.0)["alignment"])


def test_a_shift_moves_pixels_and_reflects_borders() -> None:
    torch.manual_seed(0)
    x, shift = torch.rand(4, 2, 8, 11), torch.tensor([[0, 0], [3, -2], [-7, 7], [7, -7]])
    ours = shifted(x, shift)
    for b, (down, right) in enumerate(shift.tolist()):
        padded = F.pad(x[b : b + 1], (7, 7, 7, 7), mode="reflect")[0]
        assert torch.equal(ours[b], padded[:, 7 - down : 15 - down, 7 - right : 18 - right])


def test_a_shifted_teacher() -> None:
    method = msa(geometry="shifted")
    batch = batch_of(method)
    assert torch.equal(batch["strong"], batch_of(msa())["strong"])
    many = method.sample({"image": torch.rand(400, 3, 16, 24)}, 0.0)["shift"]
    assert (int(many.min()), int(many.max())) == (-7, 7)
    assert not torch.equal(many[:, 0], many[:, 1])
    moved = torch.stack(
        [
            F.pad(batch["strong"][b : b + 1], (7, 7, 7, 7), mode="reflect")[0][:, 7 - y : 39 - y, 7 - x : 39 - x]
            for b, (y, x) in enumerate(batch["shift"].tolist())
        ]
    )
    assert torch.equal(method.teacher_input(batch), moved)
    losses, straight = method(batch, 0.0), msa()(batch, 0.0)
    assert torch.equal(losses["alignment"], msa()(batch | {"strong": moved}, 0.0)["alignment"])
    assert torch.equal(losses["reconstruction"], straight["reconstruction"])
    assert not torch.equal(losses["alignment"], straight["alignment"])


def test_the_feature_decoder_goes_with_the_pixel_decoder() -> None:
    with torch.device("meta"):
        paper = MSA(MSAConfig(), ViTConfig(768, 12, 12)).feature_decoder
        other = MSA(MSAConfig(decoder=DecoderSize(64, 1, 4), feature_depth=3), VIT).feature_decoder
    assert (paper.embed.out_features, len(paper.blocks), paper.blocks[0].attn.heads) == (512, 2, 16)
    assert (other.embed.out_features, len(other.blocks), other.blocks[0].attn.heads) == (64, 3, 4)
    assert (paper.pred.out_features, other.pred.out_features) == (768, 48)


def test_strong_augmentation_is_a_setting() -> None:
    method = msa(strong=Strong(p_jitter=0, p_grey=0, p_blur=0, p_solarize=0))
    batch = batch_of(method)
    assert torch.equal(batch["strong"], batch["image"])
    kept = msa(strong=Strong(p_jitter=0, p_grey=0, p_blur=0, p_solarize=1, threshold=0.2))
    batch = batch_of(kept)
    torch.testing.assert_close(batch["strong"], torch.where(batch["image"] >= 0.2, 1 - batch["image"], batch["image"]))


@pytest.mark.parametrize("settings", [{}, {"align": "mean", "align_on": "masked", "align_loss": "infonce"}])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_sizes_and_channels(settings: dict, channels: int) -> None:
    vit = ViTConfig(48, 1, 3, 8, (32, 64), (0.5,) * channels, (0.2,) * channels)
    method = MSA(MSAConfig(geometry="shifted", decoder=SMALL, **settings), vit)
    assert any("no colours" in note for note in method.notes)
    for shape in ((32, 64), (48, 40)):
        assert method({"image": torch.rand(2, channels, *shape)}, 0.0)["loss"].isfinite()


def test_autocast_keeps_losses_in_float32() -> None:
    for settings in ({}, {"align_loss": "infonce"}, {"align_loss": "smooth_l1"}):
        method = msa(**settings)
        batch = batch_of(method)
        with torch.autocast("cpu", torch.bfloat16):
            losses = method(batch, 0.0)
        assert all(v.dtype == torch.float32 for v in losses.values())
        torch.testing.assert_close(losses["alignment"], method(batch, 0.0)["alignment"], rtol=0.05, atol=0.05)


def test_the_switches_compile_as_one_graph() -> None:
    method = msa(align="mean", align_on="masked", align_loss="infonce", geometry="shifted", teacher="shared")
    batch = batch_of(method)
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, 0.1)["loss"], method(batch, 0.1)["loss"])


# ----------------------------------------------------------------------------------------------------- border


def test_pictures_show_what_the_teacher_sees() -> None:
    method = msa()
    batch = batch_of(method)
    columns = method.picture(batch)
    assert list(columns)[:3] == ["original", "strong view (the teacher's)", "masked"]
    assert torch.equal(columns["original"], batch["image"])
    assert torch.equal(columns["strong view (the teacher's)"], batch["strong"])
    method = msa(student_view="strong", teacher_view="weak", geometry="shifted")
    batch = batch_of(method)
    columns = method.picture(batch)
    assert list(columns)[:3] == ["original", "strong view (the student's)", "weak view (the teacher's)"]
    torch.testing.assert_close(columns["strong view (the student's)"], batch["strong"])
    assert torch.equal(columns["weak view (the teacher's)"], shifted(batch["image"], batch["shift"]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher_mask": "same", "align_on": "masked"}, "align_on is masked, but teacher_mask same hides those"),
        ({"align": "class", "align_on": "visible"}, "align_on is visible, but align class compares no patches"),
        ({"feature_depth": 0}, "feature_depth is 0: the feature decoder needs at least 1 block"),
        ({"tau": 0.0}, "tau is 0: a temperature above 0"),
        ({"lam": -1.0}, "lam is -1: at least 0"),
        ({"momentum": 1.1}, "momentum is 1.1: between 0 and 1"),
        ({"mask_ratio": 0.99}, "mask ratio 0.99 leaves 0 of 16 patches visible"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        msa(**settings)
    assert "\n" not in str(e.value)


def test_settings_come_from_options_and_from_config_yaml(tmp_path) -> None:
    settings = MSAConfig(lam=0.5, align="mean", strong=Strong(sigma=(0.2, 1.5), p_grey=0.0), feature_depth=1)
    run = Run(settings=settings, method="msa", epochs=1.0)
    (tmp_path / "config.yaml").write_text(configs.dump(run))
    assert read_config(tmp_path / "config.yaml") == run
    args = ["--settings.align-loss", "infonce", "--settings.strong.sigma", "1", "3", "--settings.teacher=shared"]
    chosen = parse(PretrainOptions, args, "maskery pretrain", PretrainOptions(Run(settings=MSAConfig(), method="msa")))
    assert chosen.run.settings == MSAConfig(align_loss="infonce", strong=Strong(sigma=(1.0, 3.0)), teacher="shared")
    with pytest.raises(UsageError, match="strong p_grey is 2: a probability between 0 and 1"):
        parse(PretrainOptions, options({"settings": {"strong": {"p_grey": 2.0}}}), "x", chosen)


@pytest.mark.parametrize("teacher", ["ema", "shared"])
def test_it_starts_from_an_exported_encoder(teacher, tmp_path) -> None:
    from safetensors.torch import save_file

    method = MSA(MSAConfig(decoder=SMALL, teacher=teacher), VIT)
    other = msa().encoder
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    start_from(method, tmp_path)
    for net in (method.encoder, method.xi):
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())

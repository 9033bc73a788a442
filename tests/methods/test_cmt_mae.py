"""CMT-MAE: its masks and losses written out, its limits, and every switch."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskery import cli, pretrain
from maskery.methods.cmt_mae import CMTMAE, CMTMAEConfig, entropy
from maskery.methods.mae import MAE, MAEConfig
from maskery.nn import masking
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig
from maskery.objective import Batch
from maskery.pictures.reconstruction import masked, overlay
from maskery.weights.load import load_encoder
from maskery.weights.teacher import build_objective, load_teacher

VIT = ViTConfig(48, 2, 3, 8, (32, 48))  # 4 x 6 patches
SMALL, TEACHER = DecoderSize(32, 1, 4), "random:test_vit"  # the teacher is 64 wide and 6 blocks deep


def cmt(vit: ViTConfig = VIT, **settings: Any) -> CMTMAE:
    torch.manual_seed(0)
    method = build_objective(CMTMAE, CMTMAEConfig(**{"decoder": SMALL, "teacher": TEACHER} | settings), vit).train()
    if method.momentum is not None:
        shift(method.momentum.net)  # away from the student, and looking somewhere
    return method


def shift(net: torch.nn.Module, by: float = 0.3) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn_like(p))


def batch_of(b: int = 3, seed: int = 1) -> Batch:
    torch.manual_seed(seed)
    return {"image": torch.rand(b, 3, 32, 48)}


def drawn_by(method: CMTMAE, t: float = 0.0, seed: int = 2) -> Batch:
    batch = batch_of()
    torch.manual_seed(seed)
    return method.sample(batch, t)


def hidden_of(method: CMTMAE, A: Tensor, rows: int) -> Tensor:
    """Masks [rows, N] drawn from one attention [N]."""
    return masking.hide_highest(method.scores(A.expand(rows, -1)), method.config.mask_ratio).hidden


# ------------------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("loss_on", ["masked", "all", "visible"])
def test_the_loss_is_the_papers(loss_on: str) -> None:
    method = cmt(alpha=0.3, loss_on=loss_on)
    batch = drawn_by(method)
    m = batch["mask"]
    with torch.no_grad():
        losses = method(batch, 0.0)
    x = method.encoder.normalise(batch["image"])
    f_t, _ = method.teacher.attend(batch["image"], (4, 6))
    f_s = method.momentum.net.encode(method.momentum.net.normalise(batch["image"]))[:, 1:]
    p = method.decoder(method.encoder.encode(x, m), m).detach()
    assert p.shape == (3, 24, 64 + 48)

    total = {"teacher": 0.0, "student": 0.0}
    counted = 0
    for b, n in itertools.product(range(3), range(24)):
        if {"masked": m.hidden[b, n] == 1, "visible": m.hidden[b, n] == 0, "all": True}[loss_on]:
            counted += 1
            for name, mine, target in (("teacher", p[b, n, :64], f_t[b, n]), ("student", p[b, n, 64:], f_s[b, n])):
                total[name] += float(2 - 2 * (mine @ target) / (mine.norm() * target.norm()))
    assert counted == {"masked": 54, "visible": 18, "all": 72}[loss_on]
    assert float(losses["loss_teacher"]) == pytest.approx(total["teacher"] / counted, rel=1e-4)
    assert float(losses["loss_student"]) == pytest.approx(total["student"] / counted, rel=1e-4)
    expected = 0.3 * total["teacher"] / counted + 0.7 * total["student"] / counted
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-4)


def test_what_is_logged_of_the_attentions() -> None:
    batch = drawn_by(method := cmt())
    losses = method(batch, 0.0)
    for name in ("teacher", "student"):
        rows = batch[f"{name}_attention"].double()
        torch.testing.assert_close(rows.sum(1), torch.ones(3).double(), rtol=0, atol=1e-5)
        expected = sum(-float(a) * math.log(float(a)) for a in rows.flatten()) / 3 / math.log(24)
        assert float(losses[f"entropy_{name}"]) == pytest.approx(expected, rel=1e-4)
        assert 0 < expected < 1
    pairs = zip(batch["teacher_attention"].flatten(), batch["student_attention"].flatten(), strict=True)
    assert float(losses["agreement"]) == pytest.approx(sum(float(min(a, b)) for a, b in pairs) / 3, rel=1e-4)
    assert float(entropy(torch.full((2, 24), 1 / 24))) == pytest.approx(1)
    assert float(entropy(torch.eye(24)[:2])) == 0


def test_gradients_reach_the_student_and_nothing_that_teaches() -> None:
    method = cmt()
    method(drawn_by(method), 0.0)["loss"].backward()
    assert all(p.grad is None for p in method.momentum.parameters())
    assert all(p.grad is None for p in method.teacher.net.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.requires_grad)


# --------------------------------------------------------------------------------------------------------------- masks


def test_the_masks_attention_is_the_linear_mixture() -> None:
    method = cmt(alpha=0.3)
    batch = drawn_by(method)
    _, A_t = method.teacher.attend(batch["image"], (4, 6))
    _, A_s = method.momentum.net.attend(method.momentum.net.normalise(batch["image"]))
    torch.testing.assert_close(batch["attention"], 0.3 * A_t + 0.7 * A_s)
    torch.testing.assert_close(batch["attention"].sum(1), torch.ones(3))
    torch.manual_seed(2)
    again = masking.hide_highest(method.scores(0.3 * A_t + 0.7 * A_s), 0.75)
    assert torch.equal(batch["mask"].hidden, again.hidden)
    assert int(again.hidden.sum()) == 3 * 18


@pytest.mark.parametrize(("direction", "hidden"), [("mask_high", 1.0), ("keep_high", 0.0)])
@pytest.mark.parametrize("sampling", ["draw", "top"])
def test_all_attention_on_one_patch(direction: str, hidden: float, sampling: str) -> None:
    torch.manual_seed(0)
    A = torch.eye(24)[7]
    masks = hidden_of(cmt(direction=direction, sampling=sampling), A, 500)
    assert (masks[:, 7] == hidden).all()
    if sampling == "draw":  # the others, all of attention 0, are hidden by chance alone
        others = masks.mean(0)[torch.arange(24) != 7]
        assert (others - (18 - hidden) / 23).abs().max() < 0.1


def chances(A: Sequence[float], k: int) -> list[float]:
    """The chance of each to be among k drawn one after the other, each in proportion to A among what is left."""
    found = [0.0] * len(A)
    for order in itertools.permutations(range(len(A)), k):
        p, left = 1.0, sum(A)
        for i in order:
            p, left = p * A[i] / left, left - A[i]
        for i in order:
            found[i] += p
    return found


@pytest.mark.parametrize(("direction", "ratio", "k"), [("mask_high", 0.4, 2), ("keep_high", 0.4, 3)])
def test_draws_are_in_proportion_to_the_attention(direction: str, ratio: float, k: int) -> None:
    torch.manual_seed(0)
    A = [0.4, 0.05, 0.3, 0.15, 0.1]
    masks = hidden_of(cmt(direction=direction, mask_ratio=ratio), torch.tensor(A), 20_000)
    chosen = masks.mean(0) if direction == "mask_high" else 1 - masks.mean(0)
    assert chosen.sum().item() == pytest.approx(k)
    assert chosen.tolist() == pytest.approx(chances(A, k), abs=0.015)  # four standard deviations
    assert chosen.argsort().tolist() == torch.tensor(A).argsort().tolist()


def test_the_highest_without_chance() -> None:
    A = torch.rand(24)
    masks = hidden_of(cmt(sampling="top"), A, 2)
    assert masks[0].nonzero().flatten().tolist() == sorted(A.argsort(descending=True)[:18].tolist())
    masks = hidden_of(cmt(sampling="top", direction="keep_high"), A, 2)
    assert masks[0].nonzero().flatten().tolist() == sorted(A.argsort()[:18].tolist())


def test_the_random_control_and_even_attention_have_the_masks_of_mae() -> None:
    torch.manual_seed(0)
    mae = MAE(MAEConfig(decoder=SMALL), VIT)
    batch, method = batch_of(), cmt(direction="random")
    assert all(torch.equal(v, mae.encoder.state_dict()[k]) for k, v in method.encoder.state_dict().items())
    torch.manual_seed(2)
    expected, after = mae.sample(batch, 0.0)["mask"], torch.rand(())
    found = drawn_by(method)["mask"]
    assert torch.equal(torch.rand(()), after)  # masks are all that is drawn
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    method = cmt()
    assert not torch.equal(drawn_by(method)["mask"].hidden, expected.hidden)
    torch.manual_seed(2)
    even = masking.hide_highest(method.scores(torch.full((3, 24), 1 / 24)), 0.75)
    assert all(torch.equal(a, b) for a, b in zip(even, expected, strict=True))


def test_masks_are_drawn_in_float32() -> None:
    method = cmt()
    A, exact = torch.full((2, 24), 1 / 24).bfloat16(), drawn_by(method)
    with torch.autocast("cpu", torch.bfloat16):
        batch = drawn_by(method)
        assert not torch.equal(batch["teacher_features"], exact["teacher_features"])  # autocast is at work
        for name in ("attention", "teacher_attention", "student_attention", "alpha"):
            assert batch[name].dtype == torch.float32
        scores = method.scores(A)
        assert method(batch, 0.0)["loss"].dtype == torch.float32
    assert scores.dtype == torch.float32
    assert len(scores.unique()) == 48
    A = torch.rand(2, 24).softmax(1).bfloat16()
    torch.manual_seed(4)
    scores = method.scores(A)
    torch.manual_seed(4)
    expected = A.double().log() - (-torch.rand(2, 24).double().log()).log()
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- alpha


def test_alpha_of_one_has_no_momentum_student() -> None:
    method = cmt(alpha=1.0)
    assert method.momentum is None
    assert not any(name.startswith("momentum") for name in method.state_dict())
    assert method.decoder.pred.out_features == 64
    batch = drawn_by(method)
    assert torch.equal(batch["attention"], batch["teacher_attention"])
    losses = method(batch, 0.0)
    assert losses.keys() == {"loss", "loss_teacher", "entropy_teacher"}
    assert torch.equal(losses["loss"], losses["loss_teacher"])
    method.after_step(0.5)


def test_alpha_of_zero_asks_for_no_teacher() -> None:
    method = cmt(alpha=0.0, teacher="there is none")
    assert method.teacher is None
    assert method.notes == ()
    assert method.decoder.pred.out_features == 48
    batch = drawn_by(method)
    assert torch.equal(batch["attention"], batch["student_attention"])
    losses = method(batch, 0.0)
    assert losses.keys() == {"loss", "loss_student", "entropy_student"}
    assert torch.equal(losses["loss"], losses["loss_student"])
    with pytest.raises(ValueError, match="there is no teacher"):
        cmt(alpha=0.0, alpha_start=0.1, teacher="there is none")


@pytest.mark.parametrize("ignored", ["momentum", "teacher"])
def test_at_the_ends_of_a_ramp_the_other_one_does_not_count(ignored: str) -> None:
    settings = {"alpha_start": 1.0, "alpha": 0.4} if ignored == "momentum" else {"alpha_start": 0.0, "alpha": 0.6}
    one, other = cmt(**settings), cmt(**settings)
    shift(getattr(other, ignored).net)
    for t, same in ((0.0, True), (0.4, False)):
        batches = [drawn_by(method, t) for method in (one, other)]
        losses = [method(batch, t) for method, batch in zip((one, other), batches, strict=True)]
        assert torch.equal(batches[0]["attention"], batches[1]["attention"]) == same
        assert torch.equal(batches[0]["mask"].hidden, batches[1]["mask"].hidden) or not same
        assert torch.equal(losses[0]["loss"], losses[1]["loss"]) == same
        lost = f"loss_{'student' if ignored == 'momentum' else 'teacher'}"
        assert not torch.equal(losses[0][lost], losses[1][lost])  # the change is one that shows
    one(drawn_by(one, 0.0), 0.0)["loss"].backward()
    head = one.decoder.pred.weight.grad.split([64, 48])
    assert [bool(g.any()) for g in head] == ([True, False] if ignored == "momentum" else [False, True])


def test_the_ramp() -> None:
    config = CMTMAEConfig(alpha=0.4, alpha_start=1.0, alpha_ramp=0.5)
    found = [config.alpha_at(t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([1.0, 0.7, 0.4, 0.4, 0.4])
    assert [CMTMAEConfig(alpha=0.4).alpha_at(t) for t in (0.0, 1.0)] == [0.4, 0.4]
    method = cmt(alpha=0.4, alpha_start=1.0)
    batch = drawn_by(method, 0.25)
    assert float(batch["alpha"]) == pytest.approx(0.7)
    losses = [method(batch, t) for t in (0.0, 1.0)]  # t is in the batch: a number would recompile the graph
    assert torch.equal(losses[0]["loss"], losses[1]["loss"])
    assert float(losses[0]["alpha"]) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha_start": -0.1}, "alpha_start is -0.1"),
        ({"alpha_ramp": 0.0}, "alpha_ramp is 0: it has to be above 0"),
        ({"momentum": 2.0}, "momentum is 2"),
        ({"mask_ratio": 1.0}, "mask ratio 1"),
        ({"teacher": "test_vlt"}, "did you mean test_vi"),
        (
            {"teacher": "test_vit", "teacher_weights": "nowhere.pth"},
            "teacher-weights nowhere.pth: there is no such file",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cmt(**settings)


# ------------------------------------------------------------------------------------------------------------ teachers


def digest(method: CMTMAE) -> str:
    found = hashlib.sha256()
    for name, p in sorted(method.teacher.net.state_dict().items()):
        found.update(name.encode() + p.numpy().tobytes())
    return found.hexdigest()


def test_the_teacher_stays_what_it_is_and_the_momentum_student_follows() -> None:
    method = cmt()
    before, start = digest(method), {k: v.clone() for k, v in method.momentum.net.named_parameters()}
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        method(batch_of(seed=step), step / 3)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    theta = dict(method.encoder.named_parameters())
    method.after_step(0.5)
    for name, xi in method.momentum.net.named_parameters():
        torch.testing.assert_close(xi, 0.998 * start[name] + 0.002 * theta[name], rtol=1e-4, atol=1e-6)
    method.after_step(1.0)  # momentum 1: nothing moves any more
    assert any(not torch.equal(xi, start[k]) for k, xi in method.momentum.net.named_parameters())
    assert digest(method) == before
    assert not any("teacher" in name for name in method.state_dict())
    assert torch.equal(
        load_teacher(TEACHER, None, VIT).attend(batch_of()["image"], (4, 6))[0], drawn_by(method)["teacher_features"]
    )


def test_other_sizes_of_images_and_one_channel() -> None:
    method = build_objective(
        CMTMAE, CMTMAEConfig(decoder=SMALL, teacher=TEACHER), ViTConfig(48, 1, 3, 8, (32, 32), (0.5,), (0.2,))
    )
    for size in ((32, 32), (48, 40)):
        batch = method.sample({"image": torch.rand(2, 1, *size)}, 0.0)
        assert batch["teacher_features"].shape == (2, size[0] * size[1] // 64, 64)
        assert method(batch, 0.0)["loss"].isfinite()
        assert all(v.shape == (2, 1, *size) for v in method.picture(batch).values())


# ------------------------------------------------------------------------------------------------------------ pictures


def test_pictures() -> None:
    method = cmt()
    batch = drawn_by(method)
    columns = method.picture(batch)
    captions = ["original", "teacher's attention", "student's attention", "what drew the mask", "masked"]
    assert list(columns) == captions
    assert torch.equal(columns["what drew the mask"], overlay(batch["image"], batch["attention"], (4, 6)))
    hidden = F.interpolate(batch["mask"].hidden.view(3, 1, 4, 6), scale_factor=8).expand(3, 3, 32, 48).bool()
    assert (columns["masked"][hidden] == 0.5).all()
    assert torch.equal(columns["masked"][~hidden], batch["image"][~hidden])
    assert list(cmt(alpha=1.0, direction="random").picture(drawn_by(cmt(alpha=1.0)))) == [
        "original",
        "teacher's attention",
        "masked",
    ]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_attention_is_laid_over_its_own_patches(channels: int) -> None:
    images = 0.2 + 0.1 * torch.rand(1, channels, 16, 24)  # as dark as many bands of satellites are
    A = torch.zeros(1, 6)
    A[0, 4] = 1.0  # second row, second column of 2 x 3
    laid = overlay(images, A, (2, 3))
    assert laid.shape == images.shape
    there = torch.zeros(16, 24, dtype=torch.bool)
    there[8:, 8:16] = True
    change = (laid - images)[0].mean(0) if channels != 3 else (laid - images)[0, 0]
    assert (change[there] > 0).all()
    assert (change[~there] <= 0).all()
    assert (change[~there] < 0).sum() > 300  # of 320: the darkest cannot be darker
    assert float(laid.min()) >= 0
    assert float(laid.max()) <= 1
    if channels != 3:  # such images are shown stretched to their range, which the heat has to stay in
        assert float(laid.max()) <= float(images.max())
        assert float(laid.min()) >= float(images.min())
    assert torch.equal(masked(images, A, (2, 3))[0, :, ~there], images[0, :, ~there])


# ------------------------------------------------------------------------------------------------------------- running


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    size = ["--model", "vit-micro", "--image-size", "32", "--patch-size", "8", "--batch-size", "8", "--steps", "2"]
    watch = ["--watch.looks", "1", "--watch.knn-bank", "0", "--watch.held-out", "4", "--watch.pictures", "2"]
    return ["--data", str(data), "--out", str(out), "--method", "cmt-mae", *size, *watch, *more]


def test_without_the_teachers_weights_nothing_is_written(
    scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cli.main(["pretrain", *arguments(scene_folder, tmp_path / "run")]) == cli.FAILED
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        "maskery: the weights of the teacher vit_base_patch16_clip_quickgelu_224.openai are not on this machine"
    )
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_run_says_its_teacher_and_its_encoder_can_teach_the_next(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(arguments(scene_folder, tmp_path / "run", "--settings.teacher", TEACHER))
    assert "frozen teacher: timm's test_vit with RANDOM WEIGHTS" in capsys.readouterr().err
    encoder = load_encoder(tmp_path / "run")
    teacher = load_teacher(str(tmp_path / "run"), None, VIT)
    images = torch.rand(2, 3, 32, 48)
    tokens, attention = encoder.attend(encoder.normalise(images))
    found = teacher.attend(images, (4, 6))
    torch.testing.assert_close(found[0], tokens[:, 1:])
    torch.testing.assert_close(found[1], attention)
    assert f"the encoder in {tmp_path / 'run'}" in teacher.note

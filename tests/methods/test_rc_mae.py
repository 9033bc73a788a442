"""RC-MAE equals its reference and its limits: youngwanLEE/rc-mae at cf39823 on MAE's class, float32 on a CPU."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import maskery
from maskery.cli import main
from maskery.methods.mae import MAE, MAEConfig
from maskery.methods.rc_mae import RCMAE, RCMAEConfig
from maskery.nn import masking
from maskery.nn.decoder import DecoderSize
from maskery.nn.masking import Mask
from maskery.nn.targets import pixels
from maskery.nn.vit import ViTConfig
from maskery.objective import Batch
from maskery.optim import optimizer_of
from maskery.weights.load import load_encoder
from tests.methods.test_mae import our_name, relative
from tests.test_train import TINY, weights

REFERENCE = Path(__file__).parents[1] / "fixtures" / "rc_mae_official.safetensors"
REFERENCE_VIT = ViTConfig(48, 3, 3, 8, (64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # images normalised already
VIT, DECODER = ViTConfig(48, 2, 3, 8, (32, 32)), DecoderSize(32, 1, 4)


def rc_mae(**settings: Any) -> RCMAE:
    torch.manual_seed(0)
    return RCMAE(RCMAEConfig(decoder=DECODER, **settings), VIT).train()


def apart(method: RCMAE) -> RCMAE:
    """A teacher that is not its student, as in the middle of a run."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in method.teacher.net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return method


def images(seed: int = 0, b: int = 4) -> Tensor:
    return torch.rand(b, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def drawn(method: RCMAE | MAE, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return method.sample({"image": images(seed)}, 0.0)


# ----------------------------------------------------------------------------------------------- the reference
def test_four_steps_are_the_references() -> None:
    reference = load_file(REFERENCE)
    with safe_open(REFERENCE, "pt") as f:
        facts = f.metadata()
    momentum, gamma = float(facts["ema_momentum"]), float(facts["gamma"])
    settings = RCMAEConfig(gamma=gamma, momentum=momentum, momentum_schedule="constant", decoder=DecoderSize(32, 2, 4))
    method = RCMAE(settings, REFERENCE_VIT).train()
    begin = {our_name(k.removeprefix("weights/")): v for k, v in reference.items() if k.startswith("weights/")}
    method.student.load_state_dict(begin)
    method.teacher.net.load_state_dict(begin)
    optimizer = optimizer_of(method)
    for group in optimizer.param_groups:
        group["lr"] = 0.001

    for step, (image, noise) in enumerate(zip(reference["images"], reference["noise"], strict=True)):
        m = masking.hide_highest(noise, float(facts["mask_ratio"]))
        losses = method({"image": image, "mask": m, "teacher_mask": m}, 0.0)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / 4)
        for name in ("reconstruction", "consistency"):
            expected = reference[f"loss/{name}"][step]
            torch.testing.assert_close(losses[name].detach(), expected, rtol=1e-5, atol=1e-9, msg=f"{name}, {step}")
        total = (losses["reconstruction"] + gamma * losses["consistency"]).detach()
        torch.testing.assert_close(losses["loss"].detach(), total)

    for prefix, net in (("student_after/", method.student), ("teacher_after/", method.teacher.net)):
        expected = {our_name(k.removeprefix(prefix)): v for k, v in reference.items() if k.startswith(prefix)}
        found = dict(net.named_parameters())
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            mine = found[name]
            if name.endswith("qkv.bias"):
                # Softmax does not see the keys' bias: its gradient is rounding, which Adam blows up to whole steps.
                parts = [mine.detach().view(3, -1), value.view(3, -1)]
                assert relative(parts[0][1], parts[1][1]) < 1e-2, prefix + name
                mine, value = (part[0::2] for part in parts)
            assert relative(mine, value) < 2e-6, prefix + name


# --------------------------------------------------------------------------------------------------- the limits
def test_without_gamma_it_is_mae_bit_for_bit() -> None:
    torch.manual_seed(0)
    mae = MAE(MAEConfig(decoder=DECODER), VIT).train()
    mine = rc_mae(gamma=0.0, momentum=0.5, momentum_schedule="constant")
    optimizers = [optimizer_of(mae), optimizer_of(mine)]
    for step in range(4):
        losses = [method(drawn(method, step), step / 4)["loss"] for method in (mae, mine)]
        assert torch.equal(*losses)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 3e-3
        for (name, p), q in zip(mae.named_parameters(), mine.student.parameters(), strict=True):
            assert torch.equal(p, q), name
            assert p.grad is None or torch.equal(p.grad, q.grad), name
        for method, optimizer in zip((mae, mine), optimizers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            method.after_step((step + 1) / 4)
    assert all(torch.equal(p, q) for p, q in zip(mae.parameters(), mine.student.parameters(), strict=True))
    assert mine(drawn(mine), 0.0)["consistency"] > 0  # the teacher was there, and elsewhere


def test_at_the_start_both_predict_the_same() -> None:
    method = rc_mae()
    losses = method(drawn(method), 0.0)
    assert losses["consistency"] == 0
    assert losses["teacher_distance"] == 0
    assert torch.equal(losses["loss"], losses["reconstruction"])
    assert apart(method)(drawn(method), 0.0)["teacher_distance"] > 0.01


# ----------------------------------------------------------------------------------------------------- the loss
def by_hand(method: RCMAE, batch: Batch) -> tuple[float, float]:
    """Reconstruction and consistency, one patch after the other."""
    x, m, m_xi = method.student.encoder.normalise(batch["image"]), batch["mask"], batch["teacher_mask"]
    with torch.no_grad():
        x_hat, x_tilde = method.student.predict(x, m).double(), method.teacher.net.predict(x, m_xi).double()
    u = pixels(x, 8, norm=True).double()
    reconstruction, consistency = [], []
    for b in range(len(x)):
        for n in range(u.shape[1]):
            if m.hidden[b, n]:
                reconstruction.append(float(((x_hat[b, n] - u[b, n]) ** 2).mean()))
                if m_xi.hidden[b, n]:
                    consistency.append(float(((x_hat[b, n] - x_tilde[b, n]) ** 2).mean()))
    return sum(reconstruction) / len(reconstruction), sum(consistency) / len(consistency)


@pytest.mark.parametrize("teacher_mask", ["same", "different"])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_the_losses_patch_by_patch(teacher_mask: str, gamma: float) -> None:
    method = apart(rc_mae(teacher_mask=teacher_mask, gamma=gamma))
    batch = drawn(method)
    reconstruction, consistency = by_hand(method, batch)
    losses = {name: v.item() for name, v in method(batch, 0.0).items() if name != "teacher_distance"}
    expected = {"reconstruction": reconstruction, "consistency": consistency}
    assert losses == pytest.approx(expected | {"loss": reconstruction + gamma * consistency}, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_it_is_mae_with_a_target_between_pixels_and_teacher(gamma: float) -> None:
    """grad L = (1 + gamma) grad hidden_mean |x_hat - (u + gamma x_tilde) / (1 + gamma)|^2, in every parameter."""
    method = apart(rc_mae(gamma=gamma)).double()
    batch = drawn(method) | {"image": images().double()}
    parameters = [p for p in method.parameters() if p.requires_grad]
    found = torch.autograd.grad(method(batch, 0.0)["loss"], parameters)

    x, m = method.student.encoder.normalise(batch["image"]), batch["mask"]
    x_hat, x_tilde = method.student.predict(x, m), method.teacher.net.predict(x, m).detach()
    target = (pixels(x, 8, norm=True) + gamma * x_tilde) / (1 + gamma)
    error = (x_hat - target).square()[m.hidden.bool()].mean()  # [B, N] of bool picks the hidden patches
    expected = torch.autograd.grad((1 + gamma) * error, parameters)
    for one, other in zip(found, expected, strict=True):
        assert relative(one, other) < 1e-6  # predictions are float32


def test_a_different_teacher_mask() -> None:
    same, different = apart(rc_mae()), apart(rc_mae(teacher_mask="different"))
    one, other = drawn(same), drawn(different)
    for a, b in zip(one["mask"], other["mask"], strict=True):  # the student's mask is drawn first and does not change
        assert torch.equal(a, b)
    assert torch.equal(one["teacher_mask"].hidden, one["mask"].hidden)
    assert not torch.equal(other["teacher_mask"].hidden, other["mask"].hidden)
    assert torch.equal(other["teacher_mask"].hidden.sum(1), other["mask"].hidden.sum(1))
    losses = [same(one, 0.0), different(other, 0.0)]
    assert torch.equal(losses[0]["reconstruction"], losses[1]["reconstruction"])
    assert not torch.equal(losses[0]["consistency"], losses[1]["consistency"])


def test_masks_that_share_nothing_leave_no_consistency() -> None:
    method = apart(rc_mae(mask_ratio=0.5, teacher_mask="different"))
    scores = torch.rand(4, 16)
    batch = {"image": images(), "mask": masking.hide_highest(scores, 0.5)}
    batch["teacher_mask"] = masking.hide_highest(-scores, 0.5)
    assert not (batch["mask"].hidden * batch["teacher_mask"].hidden).any()
    batch["both_hidden"] = torch.tensor(0.25)  # `sample` divides by one patch at least
    losses = method(batch, 0.0)
    assert losses["consistency"] == 0
    assert torch.equal(losses["loss"], losses["reconstruction"])


def test_visible_and_other_patches_of_the_teacher_do_not_count() -> None:
    """Its prediction reaches the loss where both hide, and only there."""
    method = apart(rc_mae(teacher_mask="different"))
    batch, before = drawn(method), method(drawn(method), 0.0)["consistency"]
    both = (batch["mask"].hidden * batch["teacher_mask"].hidden).bool()
    changed = torch.zeros_like(both)

    def add(module: Any, args: Any, prediction: Tensor) -> Tensor:
        return prediction + 10.0 * changed.unsqueeze(-1)

    method.teacher.net.decoder.register_forward_hook(add)
    changed = ~both
    assert torch.equal(method(batch, 0.0)["consistency"], before)
    changed = both
    assert method(batch, 0.0)["consistency"] > 50


# -------------------------------------------------------------------------------------------------- the teacher
@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", (0.996, 0.998, 1.0)), ("constant", (0.996, 0.996, 0.996))]
)
def test_momentum(schedule: str, expected: tuple[float, ...]) -> None:
    method = rc_mae(momentum_schedule=schedule).double()
    for t, momentum in zip((0.0, 0.5, 1.0), expected, strict=True):
        with torch.no_grad():
            for student, teacher in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
                student.zero_()
                teacher.fill_(1.0)
        method.after_step(t)
        for p in method.teacher.parameters():
            torch.testing.assert_close(p, torch.full_like(p, momentum), rtol=1e-12, atol=0)


def test_closed_form_of_the_teacher() -> None:
    """After n steps the teacher is a^n of the beginning and (1 - a) a^(n - i) of the student after step i."""
    a, n = 0.8, 5
    method = rc_mae(momentum=a, momentum_schedule="constant")
    history = [[p.detach().clone() for p in method.student.parameters()]]
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    for step in range(n):
        method(drawn(method, step), step / n)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / n)
        history.append([p.detach().clone() for p in method.student.parameters()])
    for j, p in enumerate(method.teacher.net.parameters()):
        expected = a**n * history[0][j] + sum((1 - a) * a ** (n - i) * history[i][j] for i in range(1, n + 1))
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(history[0][-1], history[n][-1])


def test_the_teacher_is_not_trained() -> None:
    method = apart(rc_mae())
    method(drawn(method), 0.0)["loss"].backward()
    method.train()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert not any(module.training for module in method.teacher.modules())
    assert all(module.training for module in method.student.modules())
    trained = {id(p) for group in optimizer_of(method).param_groups for p in group["params"]}
    assert trained == {id(p) for p in method.student.parameters() if p.requires_grad}


def test_what_one_takes_away_is_the_teachers_encoder() -> None:
    method = rc_mae()
    assert method.encoder is method.teacher.net.encoder
    names = [name for name, _ in method.named_parameters()]
    for prefix, encoder in zip(RCMAE.encoders, (method.encoder, method.student.encoder), strict=True):
        assert [n.removeprefix(prefix) for n in names if n.startswith(prefix)] == list(encoder.state_dict())


def test_pictures_show_both() -> None:
    method = apart(rc_mae())
    columns = method.picture(drawn(method))
    assert len(columns) == 5
    taught = next(name for name in columns if name.startswith("teacher's"))
    assert "true mean" in taught
    assert not torch.equal(columns[taught], columns[taught.removeprefix("teacher's ")])
    assert torch.equal(columns[taught], columns[taught].clamp(0, 1))
    raw = rc_mae(norm_pix=False)
    assert list(raw.picture(drawn(raw)))[-1] == "teacher's reconstruction"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gamma": -1.0}, "gamma is -1: .* 0 or more"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"momentum": 1.5}, "momentum is 1.5: .* between 0 and 1"),
        ({"mask_ratio": 1.0}, "mask ratio 1 leaves 0 of 16 patches visible"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rc_mae(**settings)


def test_another_image_size_and_channels() -> None:
    vit = ViTConfig(48, 1, 3, 8, (32, 64), (0.5,) * 5, (0.2,) * 5)
    method = RCMAE(RCMAEConfig(decoder=DECODER, teacher_mask="different"), vit)
    for size in ((32, 64), (48, 40)):
        losses = method({"image": torch.rand(2, 5, *size)}, 0.0)
        assert losses["loss"].isfinite()
        assert isinstance(method.sample({"image": torch.rand(2, 5, *size)}, 0.0)["teacher_mask"], Mask)


# -------------------------------------------------------------------------------------------------- whole runs
def run(data: Path, out: Path, **leaves: Any) -> Path:
    settings = TINY["settings"] | {"momentum": 0.5, "momentum_schedule": "constant"}
    optim = {"base_lr": 3e-2, "warmup": 0.0}
    fixed = TINY | {"steps": 3, "watch": {"looks": 0, "log_every": 1}, "save": {"every": 1, "keep": 0}}
    maskery.pretrain(data=data, out=out, **fixed | {"method": "rc-mae", "settings": settings, "optim": optim} | leaves)
    return out


@pytest.fixture(scope="module")
def tiny_run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(scene_folder, tmp_path_factory.mktemp("rc-mae") / "run")


def of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def assert_the_teacher_moved_once_a_step(out: Path) -> None:
    states = [load_file(path / "model.safetensors") for path in sorted((out / "checkpoints").glob("step-*"))]
    assert len(states) == 3
    for before, after in itertools.pairwise(states):
        for name, teacher in of(after, "teacher.net.").items():
            student, old = after[f"student.{name}"], before[f"teacher.net.{name}"]
            torch.testing.assert_close(teacher, 0.5 * old + 0.5 * student, rtol=1e-5, atol=1e-7)
        name = "decoder.pred.weight"
        assert float((after[f"student.{name}"] - before[f"student.{name}"]).abs().max()) > 1e-4


def test_it_moves_once_a_step_with_and_without_accumulation(scene_folder: Path, tmp_path: Path, tiny_run: Path) -> None:
    assert_the_teacher_moved_once_a_step(tiny_run)
    assert_the_teacher_moved_once_a_step(run(scene_folder, tmp_path / "two", micro_batch=8))


def test_the_log_has_both_losses(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["consistency"] == 0
    for line in lines:
        assert line["loss"] == pytest.approx(line["reconstruction"] + line["consistency"])
    assert lines[-1]["consistency"] > 0
    assert lines[-1]["teacher_distance"] > 0


def test_evaluation_takes_the_teachers_encoder(tiny_run: Path) -> None:
    state, encoder = weights(tiny_run), load_encoder(tiny_run).state_dict()
    assert same(encoder, of(state, "teacher.net.encoder."))
    assert not same(encoder, of(state, "student.encoder."))


def test_starting_from_a_run_of_mae_and_back(scene_folder: Path, tmp_path: Path, tiny_run: Path) -> None:
    """The learning rate of step 0 is 0 with a warm-up: after one step the weights are what was loaded."""
    one_step = {"steps": 1, "optim": {"warmup": 0.5}}
    mae = run(scene_folder, tmp_path / "mae", method="mae", settings=TINY["settings"], seed=1)
    began = weights(run(scene_folder, tmp_path / "from-mae", init=str(mae), **one_step))
    wanted = of(weights(mae), "encoder.")
    assert same(of(began, "student.encoder."), wanted)
    assert same(of(began, "teacher.net.encoder."), wanted)
    assert same(of(began, "student."), of(began, "teacher.net."))

    leaves = {"method": "mae", "settings": TINY["settings"], "init": str(tiny_run)}
    back = weights(run(scene_folder, tmp_path / "from-rc-mae", **leaves | one_step))
    assert same(of(back, "encoder."), of(weights(tiny_run), "teacher.net.encoder."))


def test_a_wrong_setting_is_one_line(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["pretrain", "--data", str(scene_folder), "--out", str(tmp_path / "run"), "--method", "rc-mae"]
    assert main([*options, "--settings.momentum", "2"]) in (1, 2)
    said = capsys.readouterr().err.strip()
    assert "the teacher's momentum has to lie between 0 and 1" in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()

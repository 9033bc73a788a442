from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskery.config import OptimConfig
from maskery.nn.vit import ViTConfig
from maskery.objective import Batch
from maskery.optim import optimizer_of
from maskery.tasks.classification.probe import Probe, ProbeConfig
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.supervision import CHUNK
from tests.test_microbatch import gradients

from ..images import BLUE, RED
from ..runs import opened

VIT = ViTConfig(48, 4, 3, 8, (32, 32))
THREE = LabelsConfig(classes='["moon", "ring", "star"]')


def probe(**settings: Any) -> Probe:
    torch.manual_seed(0)
    return Probe(ProbeConfig(labels=THREE, **settings), VIT).train()


def batch_of(seed: int, images: int = 12) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(images, 3, 32, 32, generator=g), "label": torch.randint(3, (images,), generator=g)}


def trained(task: Probe, config: OptimConfig, steps: int = 5, lr: float = 0.1) -> list[float]:
    """As the loop does it; the losses."""
    optimizer, losses = optimizer_of(task, config, task.has_weight_decay, task.lr_multiplier), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * lr
        with torch.no_grad():
            batch = task.sample(batch_of(step % 2), step / steps)
        loss = task(batch, step / steps)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step((step + 1) / steps)
        losses.append(float(loss.detach()))
    return losses


def test_features_are_normalised_as_batchnorm_does_it() -> None:
    task, norm = probe(), nn.BatchNorm1d(48, affine=False, eps=1e-6)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for step in range(4):
        batch = batch_of(step, 5 + step)
        h = task.features(batch["image"])
        torch.testing.assert_close(task.sample(batch, 0.0)["h_n"], norm(h), rtol=1e-4, atol=1e-5)
        task.after_step(0.0)
        torch.testing.assert_close(task.mean, norm.running_mean)
        torch.testing.assert_close(task.var, norm.running_var)
    task.eval(), norm.eval()
    batch = batch_of(9)
    expected = norm(task.features(batch["image"]))
    torch.testing.assert_close(task.sample(batch, 0.0)["h_n"], expected)
    torch.testing.assert_close(task.classify(batch["image"])[:, 0], task.heads[0](expected))


def test_small_variances_count_as_batchnorms_do() -> None:
    """eps is not small beside the variance of features of nearly equal images."""
    task, norm = probe(), nn.BatchNorm1d(48, affine=False, eps=1e-6)
    image = batch_of(0)["image"] * 0.002 + 0.5
    h = task.features(image)
    assert float(h.var(0).median()) < 1e-5
    torch.testing.assert_close(task.sample({"image": image}, 0.0)["h_n"], norm(h), rtol=1e-3, atol=1e-4)


def test_running_averages_wait_for_the_step() -> None:
    task = probe()
    task.sample(batch_of(0), 0.0)
    task.sample(batch_of(1), 0.0)  # what counts is the batch of the step
    assert (float(task.mean.abs().max()), float(task.var.min())) == (0, 1)
    task.after_step(0.0)
    h = task.features(batch_of(1)["image"])
    torch.testing.assert_close(task.mean, 0.1 * h.mean(0))
    after = task.mean.clone()
    task.eval().sample(batch_of(2), 0.0)
    task.after_step(0.0)
    assert torch.equal(task.mean, after)


@pytest.mark.parametrize("pooling", ["class_token", "attentive"])
def test_micro_batches_have_the_statistics_of_the_whole_batch(pooling: str) -> None:
    task = probe(pooling=pooling, lrs=(0.5, 2.0), heads=4)
    with torch.no_grad():
        batch = task.sample(batch_of(0), 0.0)
    loss, whole = gradients(task, batch, 12, 12)
    for size in (6, 4, 1):
        same, cut = gradients(task, batch, 12, size)
        assert same == pytest.approx(loss, rel=1e-6)
        for name, value in cut.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["sgd", "lars", "adamw"])
def test_heads_side_by_side_learn_as_each_alone(optimiser: Any) -> None:
    rates, config = (0.1, 1.0, 30.0), OptimConfig(optimiser, weight_decay=0.0)
    together = probe(lrs=rates)
    alone = [probe(lrs=(rate,)) for rate in rates]
    for head, task in zip(together.heads, alone, strict=True):
        task.heads[0].load_state_dict(head.state_dict())
    trained(together, config)
    for head, task in zip(together.heads, alone, strict=True):
        trained(task, config)
        assert all(torch.equal(p, q) for p, q in zip(head.parameters(), task.heads[0].parameters(), strict=True))
    assert not torch.equal(together.heads[0].weight, together.heads[1].weight)


def states(task: Probe, image: Tensor) -> list[Tensor]:
    """Tokens after every block, and the last norm."""
    f = task.encoder
    tokens, found = f.embed(f.normalise(image)), []
    for block in f.blocks:
        tokens = block(tokens)
        found.append(f.norm(tokens))
    return found


def test_what_is_probed() -> None:
    image = batch_of(0, CHUNK["cpu"] + 3)["image"]
    with torch.no_grad():
        s = states(probe(), image)
        assert torch.equal(s[3], probe().encoder.encode(probe().encoder.normalise(image)))
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({}, s[3][:, 0]),
        ({"pooling": "mean_patch"}, s[3][:, 1:].mean(1)),
        ({"layer": 2}, s[1][:, 0]),
        ({"pooling": "both", "layer": 1}, torch.cat([s[0][:, 0], s[0][:, 1:].mean(1)], 1)),
        ({"blocks": 2}, torch.cat([s[2][:, 0], s[3][:, 0]], 1)),
        ({"blocks": 2, "layer": 3, "pooling": "mean_patch"}, torch.cat([s[1], s[2]], 2)[:, 1:].mean(1)),
        ({"pooling": "attentive", "layer": 3, "heads": 4}, s[2]),
    ]
    for settings, expected in cases:
        found = probe(**settings).features(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=str(settings))


def test_the_attentive_probe_learns_from_every_token() -> None:
    task = probe(pooling="attentive", heads=4)
    losses = trained(task, OptimConfig("adamw", weight_decay=0.0), steps=40, lr=3e-3)
    assert losses[0] > 1.0
    assert losses[-1] < losses[0] / 2
    tokens = task.features(batch_of(0)["image"]).requires_grad_()
    task({"h_n": tokens, "y": batch_of(0)["label"]}, 0.0)["loss"].backward()
    assert tokens.grad is not None
    assert bool((tokens.grad.abs().sum((0, 2)) > 0).all())
    assert all(p.grad is not None and float(p.grad.norm()) > 0 for p in task.heads.parameters())


def test_the_encoder_is_frozen_and_in_eval_mode() -> None:
    task = probe()
    assert {name for name, p in task.named_parameters() if p.requires_grad} == {"heads.0.weight", "heads.0.bias"}
    assert task.training
    assert not task.encoder.training
    before = {name: t.clone() for name, t in task.encoder.state_dict().items()}
    trained(task, OptimConfig("sgd"))
    assert all(torch.equal(t, before[name]) for name, t in task.encoder.state_dict().items())


def test_heads_begin_as_maes_code_begins_them() -> None:
    torch.manual_seed(0)
    head = Probe(ProbeConfig(labels=LabelsConfig(classes=str([*range(400)]))), VIT).heads[0]
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert float(head.bias.detach().abs().max()) == 0


def test_a_look_measures_the_head_that_is_best_on_what_was_kept_out(colours: Path) -> None:
    """One head answers right, the other one wrong; which is reported is not asked of the held-out images."""
    data = opened(colours)
    settings, data = Probe.prepare(ProbeConfig(lrs=(1.0, 2.0), labels=LabelsConfig(tune=0.2)), data)
    torch.manual_seed(0)
    task = Probe(settings, VIT)
    with torch.no_grad():
        like = [torch.rand(8, 3, 32, 32) * 0.2 + torch.tensor(colour)[:, None, None] / 255 for colour in (BLUE, RED)]
        means = [task.features(image) for image in like]
        towards = means[1].mean(0) - means[0].mean(0)
        task.mean.copy_((means[1].mean(0) + means[0].mean(0)) / 2)
        task.heads[0].weight.copy_(torch.stack([towards, -towards]))
        task.heads[1].weight.copy_(torch.stack([-towards, towards]))
    numbers = task.validate(data, 100, torch.float32, 0)
    assert numbers["top1"] == numbers["tune_top1"] == numbers["tune_top1_lr_2"] == 1.0
    assert numbers["tune_top1_lr_1"] == 0.0
    assert numbers["held_out_loss"] < 0.7
    assert task.training

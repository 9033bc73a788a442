"""What only a GPU shows: bf16, one compiled graph, no waiting for the device within a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td

import maskery
from maskery.data.views import to_float
from maskery.distributed import data_parallel
from maskery.methods import METHODS
from maskery.nn.decoder import DecoderSize
from maskery.nn.masking import Mask
from maskery.nn.vit import ViTConfig
from maskery.objective import Batch, Objective
from maskery.optim import optimizer_of
from maskery.weights.teacher import build_objective
from tests.test_train import TINY, metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_in_bf16_compiled_learns_and_goes_on(scene_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=26, save={"every": 13, "keep": 0}, **TINY)
    looks = [f["held_out_loss"] for f in metrics(out) if "held_out_loss" in f]
    assert looks[-1] < looks[0]
    config = (out / "config.yaml").read_text()
    assert "precision: bf16" in config
    assert "compile: 'on'" in config
    assert json.loads((out / "environment.json").read_text())["cuda"]
    assert maskery.resume(out).step == 26


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_never_waits_for_the_device(name: str, compiled: bool) -> None:
    device = torch.device("cuda")
    teacher = {"teacher": "random:test_vit"} if name == "cmt-mae" else {}
    config = METHODS[name].Config(decoder=DecoderSize(64, 1, 4), **teacher)
    objective = build_objective(METHODS[name], config, ViTConfig(128, 2, 4, 8, (32, 32)))
    objective = objective.to(device).train()
    model = torch.compile(objective, dynamic=False) if compiled else objective
    optimizer = optimizer_of(objective)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).pin_memory()

    def step(seed: int) -> None:
        torch.manual_seed(seed)
        batch = objective.sample({"image": to_float(pixels, device)}, 0.0)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(batch, seed / 10)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(seed / 10)

    for seed in range(3):  # compiles and allocates
        step(seed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ----------------------------------------------------------------------------- the same numbers, whatever computes them
def built(name: str, device: str, side: int = 32) -> tuple[Objective, Batch]:
    """A small method of each kind and a batch that it has drawn, the same on every device."""
    torch.manual_seed(0)
    teacher = {"teacher": "random:test_vit"} if name == "cmt-mae" else {}
    config = METHODS[name].Config(decoder=DecoderSize(64, 2, 4), **teacher)
    objective = build_objective(METHODS[name], config, ViTConfig(128, 2, 2, 8, (side, side))).train()
    batch = objective.sample({"image": torch.rand(8, 3, side, side)}, 0.3)
    return objective.to(device), {key: moved(value, device) for key, value in batch.items()}


def moved(value: Any, device: str) -> Any:
    return type(value)(*(part.to(device) for part in value)) if isinstance(value, Mask) else value.to(device)


def gradients(objective: Objective, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    found = {name: p.grad.cpu() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    return found


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_the_cpus(name: str) -> None:
    found = []
    for device in ("cuda", "cpu"):
        objective, batch = built(name, device)
        loss = objective(batch, 0.3)["loss"]
        found.append((float(loss.detach()), gradients(objective, loss)))
    (loss, ours), (expected, theirs) = found
    assert loss == pytest.approx(expected, rel=1e-4)
    # the keys' bias has no gradient but rounding; qkv.bias holds it
    assert max(far(ours[key], theirs[key]) for key in theirs if not key.endswith("qkv.bias")) < 1e-3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("side", "compiled"),  # 16, 64 and 196 patches: which kernel computes attention depends on the length
    [(32, False), (64, False), (64, True), (112, False)],
)
def test_bf16_is_float32_but_for_its_digits(name: str, side: int, compiled: bool) -> None:
    objective, batch = built(name, "cuda", side)
    torch._dynamo.reset()
    exact = objective(batch, 0.3)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = (torch.compile(objective, dynamic=False) if compiled else objective)(batch, 0.3)
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert float(rounded["loss"].detach()) == pytest.approx(float(exact["loss"].detach()), rel=2e-2)
    sharp, blunt = gradients(objective, exact["loss"]), gradients(objective, rounded["loss"])
    assert max(far(blunt[key], sharp[key]) for key in sharp if not key.endswith("qkv.bias")) < 0.1


@pytest.mark.parametrize("name", METHODS)
def test_compiled_is_eager(name: str) -> None:
    objective, batch = built(name, "cuda")
    torch._dynamo.reset()
    eager, compiled = objective(batch, 0.3), torch.compile(objective, dynamic=False)(batch, 0.3)
    assert float(compiled["loss"].detach()) == pytest.approx(float(eager["loss"].detach()), rel=1e-5)
    one, other = gradients(objective, compiled["loss"]), gradients(objective, eager["loss"])
    assert max(far(one[key], other[key]) for key in other if not key.endswith("qkv.bias")) < 1e-3


@pytest.mark.parametrize("name", ["rc-mae", "msa", "cmt-mae"])
def test_teachers_follow_as_on_the_cpu(name: str) -> None:
    states = []
    for device in ("cuda", "cpu"):
        objective, _ = built(name, device)
        with torch.no_grad():
            for p in objective.parameters():
                p.mul_(1.5) if p.requires_grad else None
        objective.after_step(0.5)
        states.append({key: value.cpu() for key, value in objective.state_dict().items()})
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key], value)


def test_one_rank_of_nccl_is_none(tmp_path: Path) -> None:
    objective, batch = built("mae", "cuda")
    alone = gradients(objective, objective(batch, 0.0)["loss"])
    device = torch.device("cuda", 0)
    td.init_process_group("nccl", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1, device_id=device)
    try:
        model = data_parallel(objective, device)
        together = gradients(objective, model(batch, 0.0)["loss"])
    finally:
        td.destroy_process_group()
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-5, atol=1e-7)


def test_a_profile_waits_for_the_device_and_knows_its_memory(scene_folder: Path) -> None:
    found = maskery.profile(data=scene_folder, timed=3, **{k: v for k, v in TINY.items() if k != "watch"})
    assert sum(found["parts"].values()) > 0
    assert 0 < found["utilisation"] < 1
    assert found["memory_total_gb"] == pytest.approx(torch.cuda.get_device_properties(0).total_memory / 1e9)
    assert found["bf16"] == torch.cuda.is_bf16_supported()

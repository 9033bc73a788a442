"""What only a GPU shows: bf16, one compiled graph, no waiting for the device within a step."""

import json
from pathlib import Path

import pytest
import torch

import maskery
from maskery.data.views import to_float
from maskery.methods import METHODS
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig
from maskery.optim import adamw
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
    objective = METHODS[name](config, ViTConfig(128, 2, 4, 8, (32, 32)))
    objective = objective.to(device).train()
    model = torch.compile(objective, dynamic=False) if compiled else objective
    optimizer = adamw(objective, (0.9, 0.95), 0.05)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).pin_memory()

    def step(seed: int) -> None:
        torch.manual_seed(seed)
        batch = objective.draw({"image": to_float(pixels, device)}, 0.0)
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


def test_float32_is_the_cpus(tmp_path: Path) -> None:
    torch.manual_seed(0)
    objective = METHODS["mae"](METHODS["mae"].Config(decoder=DecoderSize(64, 1, 4)), ViTConfig(128, 2, 4, 8, (32, 32)))
    batch = objective.draw({"image": torch.rand(4, 3, 32, 32)}, 0.0)
    here = objective(batch, 0.0)["loss"]
    moved = {"image": batch["image"].cuda(), "mask": type(batch["mask"])(*(t.cuda() for t in batch["mask"]))}
    there = objective.cuda()(moved, 0.0)["loss"]
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)

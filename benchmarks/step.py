"""One training step of MAE, ours against transformers' ViTMAEForPreTraining: same size, batch, optimiser, device, run.

Both draw masks, go forward and backward and take a fused AdamW step on images that lie on the device. Rounds alternate,
so that what else the machine does falls on both. Numbers are medians over rounds.

    python -m benchmarks.step [--out FILE.json] [--rounds N] [SIZE/PATCH@PIXELSxBATCH ...]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from maskery.methods.mae import MAE, MAEConfig
from maskery.nn.vit import SIZES, ViTConfig
from maskery.optim import adamw
from maskery.recipes import DECODERS

CPU_CASES = ("vit-micro/8@64x64", "vit-tiny/8@64x32", "vit-small/16@224x8", "vit-base/16@224x8")


@dataclass(frozen=True)
class Case:
    model: str
    patch: int
    pixels: int
    batch: int

    @staticmethod
    def of(text: str) -> "Case":
        """ "vit-base/16@224x8" -> ViT-B/16 on 224 pixels, 8 images a step."""
        model, _, rest = text.partition("/")
        patch, _, rest = rest.partition("@")
        pixels, _, batch = rest.partition("x")
        return Case(model, int(patch), int(pixels), int(batch))

    def __str__(self) -> str:
        return f"{self.model}/{self.patch} at {self.pixels}, batch {self.batch}"


def ours(case: Case) -> torch.nn.Module:
    size = SIZES[case.model]
    vit = ViTConfig(size.dim, size.depth, size.heads, case.patch, (case.pixels, case.pixels))
    return MAE(MAEConfig(decoder=DECODERS[case.model]), vit)


def theirs(case: Case) -> torch.nn.Module:
    size, decoder = SIZES[case.model], DECODERS[case.model]
    config = transformers.ViTMAEConfig(
        hidden_size=size.dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=case.pixels,
        patch_size=case.patch,
        decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.dim,
        mask_ratio=0.75,
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    return transformers.ViTMAEForPreTraining(config)


def step_of(net: torch.nn.Module, loss: Callable[[Any], torch.Tensor], device: torch.device) -> Callable[[], None]:
    """One optimiser step as a function: bf16 autocast on a GPU, float32 on a CPU."""
    optimizer = adamw(net, (0.9, 0.95), 0.05)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(net)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None], steps: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def compare(case: Case, device: torch.device, rounds: int, compiled: bool) -> dict[str, Any]:
    """Images per second and peak memory of both, and the ratio of each round (ours / theirs)."""
    images = torch.rand(case.batch, 3, case.pixels, case.pixels, device=device)
    nets = {"maskery": ours(case).to(device).train(), "transformers": theirs(case).to(device).train()}
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert len(set(parameters.values())) == 1, f"not the same network: {parameters}"
    drawn: MAE = nets["maskery"]  # type: ignore[assignment]
    if compiled:
        nets = {name: torch.compile(net, dynamic=False) for name, net in nets.items()}  # type: ignore[misc]
    steps = {
        "maskery": step_of(nets["maskery"], lambda net: net(drawn.draw({"image": images}, 0.0), 0.0)["loss"], device),
        "transformers": step_of(nets["transformers"], lambda net: net(pixel_values=images).loss, device),
    }
    peak: dict[str, float] = {}
    for name, step in steps.items():
        for _ in range(3):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            torch.cuda.synchronize()
            peak[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
    once = seconds(steps["maskery"], 1, device)
    many = max(1, round((2.0 if device.type == "cuda" else 4.0) / once))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds):
        for name in list(steps) if round_ % 2 else list(steps)[::-1]:
            times[name].append(seconds(steps[name], many, device))
    ratios = [b / a for a, b in zip(times["maskery"], times["transformers"], strict=True)]
    return {
        "case": str(case),
        "images_per_second": {n: round(case.batch / statistics.median(t), 2) for n, t in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "activation_gb": {n: round(v, 3) for n, v in peak.items()},
        "steps_per_round": many,
    }


def environment(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "precision": "bf16 autocast" if cuda else "float32",
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| step of MAE pre-training | Maskery, images/s | transformers, images/s | ratio |", "|---|---|---|---|"]
    for row in rows:
        speed = row["images_per_second"]
        lines.append(f"| {row['case']} | {speed['maskery']:,.1f} | {speed['transformers']:,.1f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CPU_CASES, help="SIZE/PATCH@PIXELSxBATCH")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [compare(Case.of(c), device, args.rounds, compiled=device.type == "cuda") for c in args.cases]
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps({**environment(device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""One training step of MAE, ours against transformers' and lightly's: same size, batch, optimiser, device, run.

All draw masks, go forward and backward and take a fused AdamW step on images that lie on the device. Rounds alternate,
so that what else the machine does falls on all. Numbers are medians over rounds.

    python -m benchmarks.step [--quick] [--out FILE.json] [--rounds N] [SIZE/PATCH@PIXELSxBATCH ...]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maskery.methods.mae import MAE, MAEConfig
from maskery.nn.vit import SIZES, ViTConfig
from maskery.optim import optimizer_of
from maskery.recipes import DECODERS

from .peers import PEERS, installed, parameters

QUICK_CASES, QUICK_ROUNDS, QUICK_SECONDS = ("vit-micro/8@32x16", "vit-micro/8@64x8"), 3, 0.4
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


def ours(case: Case) -> MAE:
    size = SIZES[case.model]
    vit = ViTConfig(size.dim, size.depth, size.heads, case.patch, (case.pixels, case.pixels))
    return MAE(MAEConfig(decoder=DECODERS[case.model]), vit)


def step_of(net: torch.nn.Module, loss: Callable[[Any], torch.Tensor], device: torch.device) -> Callable[[], None]:
    """One optimiser step as a function: bf16 autocast on a GPU, float32 on a CPU."""
    optimizer = optimizer_of(net)
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


def compare(case: Case, device: torch.device, rounds: int, compiled: bool, round_seconds: float) -> dict[str, Any]:
    """Measure images per second of ours and of every installed peer, and the ratio of each round (ours / theirs)."""
    images = torch.rand(case.batch, 3, case.pixels, case.pixels, device=device)
    net = ours(case).to(device).train()
    took: dict[str, Any] = {"maskery": (net, lambda model, x: model(net.sample({"image": x}, 0.0), 0.0)["loss"])}
    took |= {name: peer for name in PEERS if (peer := installed(name, case))}
    sizes = {name: parameters(module) for name, (module, _) in took.items()}
    assert all(abs(n / sizes["maskery"] - 1) < 0.005 for n in sizes.values()), f"not the same network: {sizes}"
    steps: dict[str, Callable[[], None]] = {}
    for name, (module, loss) in took.items():
        module = module.to(device).train()
        model = torch.compile(module, dynamic=False) if compiled else module
        steps[name] = step_of(model, lambda model, loss=loss: loss(model, images), device)
        for _ in range(3):
            steps[name]()
    many = max(1, round(round_seconds / seconds(steps["maskery"], 1, device)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds):
        for name in list(steps) if round_ % 2 else list(steps)[::-1]:
            times[name].append(seconds(steps[name], many, device))
    ratios = {n: [b / a for a, b in zip(times["maskery"], t, strict=True)] for n, t in times.items() if n != "maskery"}
    return {
        "case": str(case),
        "images_per_second": {n: round(case.batch / statistics.median(t), 2) for n, t in times.items()},
        "ratio": {n: round(statistics.median(r), 3) for n, r in ratios.items()},
        "ratios": {n: [round(x, 3) for x in r] for n, r in ratios.items()},
        "steps_per_round": many,
    }


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        **{name: version_of(name) for name in PEERS},
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "precision": "bf16 autocast" if cuda else "float32",
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = ["maskery", *PEERS]
    lines = [
        "| step of MAE pre-training, images/s | "
        + " | ".join(names)
        + " | "
        + " | ".join(f"/ {n}" for n in PEERS)
        + " |",
        "|---" * (2 * len(names)) + "|",
    ]
    for row in rows:
        speed, ratio = row["images_per_second"], row["ratio"]
        cells = [f"{speed[n]:,.1f}" if n in speed else "not installed" for n in names]
        cells += [f"{ratio[n]:.2f}" if n in ratio else "" for n in PEERS]
        lines.append(f"| {row['case']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help="SIZE/PATCH@PIXELSxBATCH")
    parser.add_argument("--rounds", type=int, help=f"default 7, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="two small cases in short rounds, under half a minute")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    cases = args.cases or (QUICK_CASES if args.quick else CPU_CASES)
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else 7)
    round_seconds = QUICK_SECONDS if args.quick else 2.0 if cuda else 4.0
    rows = [compare(Case.of(c), device, rounds, cuda and not args.quick, round_seconds) for c in cases]
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps({**environment(device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What every method costs: time and memory of a step as ratios to MAE's in the same run, beside what counting predicts.

Each method steps on the same images, as the loop does (draw, forward, backward, fused AdamW, after_step). Rounds
alternate over the methods; times are medians over rounds. Memory is the peak of method, optimiser and step: on a GPU
what was allocated, on a CPU how far the resident size of a process of its own rises.

    python -m benchmarks.methods [--out FILE.json] [--rounds N] [SIZE/PATCH@PIXELSxBATCH ...]
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from maskery.methods import METHODS
from maskery.nn.vit import SIZES, ViTConfig
from maskery.objective import Objective
from maskery.recipes import DECODERS
from maskery.weights.teacher import build_objective

from .count import per_image
from .step import Case, environment, seconds, step_of

CPU_CASES = ("vit-micro/8@64x64", "vit-small/16@224x16")
GPU_CASES = ("vit-small/16@224x256", "vit-base/16@224x256")
TEACHERS = {  # CMT-MAE's frozen teacher: random weights cost what any cost
    "vit-micro": ("vit_tiny_patch16_224", ViTConfig(192, 12, 3)),
    "vit-tiny": ("vit_tiny_patch16_224", ViTConfig(192, 12, 3)),
    "vit-small": ("vit_small_patch16_224", ViTConfig(384, 12, 6)),
    "vit-base": ("vit_base_patch16_224", ViTConfig()),
    "vit-large": ("vit_base_patch16_224", ViTConfig()),
}


def vit_of(case: Case) -> ViTConfig:
    size = SIZES[case.model]
    return ViTConfig(size.dim, size.depth, size.heads, case.patch, (case.pixels, case.pixels))


def built(name: str, case: Case) -> Objective:
    settings: dict[str, Any] = {"decoder": DECODERS[case.model]}
    if name == "cmt-mae":
        settings["teacher"] = f"random:{TEACHERS[case.model][0]}"
    return build_objective(METHODS[name], METHODS[name].Config(**settings), vit_of(case))


def predicted(case: Case) -> dict[str, float]:
    """FLOP of each method by those of MAE."""
    vit, frozen = vit_of(case), TEACHERS[case.model][1]
    side = case.pixels // case.patch * frozen.patch_size
    frozen = ViTConfig(frozen.dim, frozen.depth, frozen.heads, frozen.patch_size, (side, side))
    counted = per_image(vit, DECODERS[case.model], frozen)
    return {name: flop / counted["mae"] for name, flop in counted.items()}


def stepping(name: str, case: Case, device: torch.device) -> Any:
    objective = built(name, case).to(device).train()
    model: Any = torch.compile(objective, dynamic=False) if device.type == "cuda" else objective
    images = torch.rand(case.batch, 3, case.pixels, case.pixels, device=device)
    take = step_of(model, lambda net: net(objective.sample({"image": images}, 0.5), 0.5)["loss"], device)

    def step() -> None:
        take()
        objective.after_step(0.5)

    return step


def memory(name: str, case: Case) -> float:
    """GB that the method and three of its steps take in this process, which has done nothing else."""
    cuda = torch.cuda.is_available()
    before = 0.0 if cuda else resident("VmRSS")
    step = stepping(name, case, torch.device("cuda" if cuda else "cpu"))
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() / 1e9 if cuda else resident("VmHWM") - before


def resident(what: str) -> float:
    """GB from /proc/self/status: VmRSS now, VmHWM at most since it was last asked for VmRSS (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if what == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of importing
    return int(status[what].split()[0]) * 1024 / 1e9


def memory_alone(name: str, case_text: str) -> float:
    command = [sys.executable, "-m", "benchmarks.methods", "--memory-of", name, case_text]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(text: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    case = Case.of(text)
    steps = {name: stepping(name, case, device) for name in METHODS}
    for step in steps.values():
        for _ in range(3):
            step()
    many = max(1, round(2.0 / seconds(steps["mae"], 1, device)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds):
        for name in list(steps) if round_ % 2 else list(steps)[::-1]:
            times[name].append(seconds(steps[name], many, device))
    peaks, expected = {name: memory_alone(name, text) for name in steps}, predicted(case)
    rows = []
    for name in steps:
        ratios = [a / b for a, b in zip(times[name], times["mae"], strict=True)]
        rows.append(
            {
                "case": str(case),
                "method": name,
                "images_per_second": round(case.batch / statistics.median(times[name]), 1),
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratios": [round(r, 3) for r in ratios],
                "predicted_ratio": round(expected[name], 3),
                "peak_memory_gb": round(peaks[name], 3),
                "memory_ratio": round(peaks[name] / peaks["mae"], 3),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| step | method | images/s | time / MAE | counted | memory / MAE |", "|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['case']} | {r['method']} | {r['images_per_second']:,.1f} | {r['time_ratio']:.2f} | "
            f"{r['predicted_ratio']:.2f} | {r['memory_ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("cases", nargs="*", default=GPU_CASES if cuda else CPU_CASES, help="SIZE/PATCH@PIXELSxBATCH")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", help="print the GB a method's steps add, and nothing else")
    args = parser.parse_args()
    if args.memory_of:
        print(memory(args.memory_of, Case.of(args.cases[0])))
        return
    device = torch.device("cuda" if cuda else "cpu")
    rows = [row for case in args.cases for row in measure(case, device, args.rounds)]
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps({**environment(device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

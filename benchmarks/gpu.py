"""What a GPU reaches: its own large bf16 matrix product, then MAE steps of S, B and L against transformers.

    python -m benchmarks.gpu        writes benchmarks/results/<date>-<device>.json

Model FLOPs of a step are counted by hand (`benchmarks/count.py`).
"""

import json
import sys
import time
from pathlib import Path

import torch

from maskery.recipes import DECODERS

from .count import per_image
from .methods import vit_of
from .step import Case, compare, environment, table

CASES = ("vit-small/16@224x512", "vit-base/16@224x256", "vit-large/16@224x128")


def matrix_product(n: int = 8192) -> float:
    """FLOP per second of an n x n x n bf16 product on random numbers."""
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 20 * 2 * n**3 / (start.elapsed_time(end) / 1e3)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device")
    device, peak, rows = torch.device("cuda"), matrix_product(), []
    for text in CASES:
        case = Case.of(text)
        row = compare(case, device, rounds=5, compiled=True)
        flop = per_image(vit_of(case), DECODERS[case.model])["mae"]
        row["mfu"] = round(row["images_per_second"]["maskery"] * flop / peak, 3)
        rows.append(row)
    facts = {**environment(device), "matrix_product_tflops": round(peak / 1e12, 1), "rows": rows}
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    path = Path(__file__).parent / "results" / f"{time.strftime('%Y-%m-%d')}-{name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(table(rows))
    print("share of the matrix product's rate: " + ", ".join(f"{r['case']} {r['mfu']:.0%}" for r in rows))


if __name__ == "__main__":
    main()

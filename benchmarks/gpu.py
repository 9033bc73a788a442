"""Everything that only a GPU shows, in one command of less than eight minutes.

    python -m benchmarks.gpu [--out FILE.json] [--minutes 7.5] [--images FOLDER] [--packed DIR] [--tiny]

In the order of what matters most: ceilings of the device, steps of MAE in three sizes beside transformers and lightly,
the other methods, other micro-batches and ways to compile, runs of the loop from files, kernels of a step. Every row is
written when it is there; what fails says why and stops nothing; what the time did not reach is listed.

Compiling takes most of the time: first, processes beside each other compile every step into PyTorch's own cache.
Model FLOPs are counted by hand (`benchmarks/count.py`: work that is left out is not counted), the ceiling is measured.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .gpu_parts import (
    FIRST,
    METHODS_AT_BASE,
    OTHERS,
    TINY,
    TINY_JOBS,
    Job,
    Row,
    ceilings,
    first_line,
    kernels,
    loop,
    measure,
    packed,
    photographs,
    stepping,
)
from .peers import PEERS, installed
from .step import Case, environment


# ------------------------------------------------------------------------------------------------- what runs them
class Results:
    """Rows by part, written to the file whenever there is a new one; failures are rows as well."""

    def __init__(self, path: Path | None, facts: Row, until: float):
        self.path, self.until = path, until
        self.facts: Row = {**facts, "not_reached": []}

    def add(self, part: str, row: Row) -> None:
        self.facts.setdefault(part, []).append(row)
        print(
            f"{part:10} " + "  ".join(f"{k} {short(v)}" for k, v in row.items() if not isinstance(v, dict)), flush=True
        )
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.facts, indent=1) + "\n")

    def attempt(self, part: str, what: Row, rows: Callable[[], Iterator[Row] | Row], needs: float = 15.0) -> None:
        """Rows of something that may fail, if there are as many seconds left as it needs."""
        if time.monotonic() + needs > self.until:
            self.facts["not_reached"].append({"part": part, **what})
            return
        try:
            found = rows()
            for row in [found] if isinstance(found, dict) else found:
                self.add(part, what | row)
        except Exception as e:
            self.add(part, what | {"error": first_line(e)})
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def warm(jobs: list[Job], limit: float, beside: int) -> None:
    """Compile jobs in processes of their own into the cache, so many at a time, until `limit` seconds are over."""
    end, waiting, running = time.monotonic() + limit, list(jobs), []
    while (waiting or running) and time.monotonic() < end:
        running = [process for process in running if process.poll() is None]
        while waiting and len(running) < beside:
            job = waiting.pop(0)
            command = [sys.executable, "-m", "benchmarks.gpu", "--warm", job.name, job.case, job.compile]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(0.2)
    for process in running:
        process.kill()
        process.wait()


def run(
    device: torch.device, out: Path | None, minutes: float, folder: str | None, pack: str | None, tiny: bool
) -> Row:
    """All parts. Returns what is in the file."""
    began = time.monotonic()
    results = Results(out, {**environment(device), "command": sys.argv}, began + 60 * minutes)
    results.attempt("ceilings", {}, lambda: ceilings(device, tiny), 0.0)
    peak = max((r.get("tflops", 0.0) for r in results.facts.get("ceilings", [])[:1]), default=0.0) * 1e12 or float(
        "nan"
    )
    first, then, others = (TINY_JOBS, [], []) if tiny else (FIRST, METHODS_AT_BASE, OTHERS)
    present = [job for job in first + then + others[:3] if job.name not in PEERS or installed(job.name, Case.of(TINY))]
    if device.type == "cuda" and not tiny:
        warm(present, 0.4 * (results.until - time.monotonic()), 5)
        results.add("compiling", {"steps": len(present), "seconds": round(time.monotonic() - began)})
    with tempfile.TemporaryDirectory() as scratch:
        for job in first:
            results.attempt("steps", {"job": str(job)}, lambda job=job: measure(job, device, peak))
        for job in then:
            results.attempt("steps", {"job": str(job)}, lambda job=job: measure(job, device, peak), 60.0)

        where, small = Path(scratch) / "photographs", ("vit-micro", 8) if tiny else ("vit-small", 512)
        large = ("vit-micro", 8) if tiny else ("vit-large", 128)
        source = folder or str(where)
        if not folder:
            results.attempt(
                "loop", {"what": "photographs"}, lambda: {"made": str(photographs(where, 12 if tiny else 4000))}, 60.0
            )
        results.attempt(
            "loop",
            {"from": "folder", "model": large[0]},
            lambda: loop(device, tiny, source, *large, Path(scratch)),
            60.0,
        )
        shards = pack or str(Path(scratch) / "packed")
        if not pack:
            results.attempt("loop", {"what": "packed"}, lambda: {"made": str(packed(Path(source), Path(shards)))}, 60.0)
        results.attempt(
            "loop",
            {"from": "packed", "model": small[0]},
            lambda: loop(device, tiny, shards, *small, Path(scratch)),
            60.0,
        )
    results.attempt("kernels", {}, lambda: kernels(device, first[0]), 25.0)
    for job in others:
        results.attempt("steps", {"job": str(job)}, lambda job=job: measure(job, device, peak), 40.0)
    results.add("done", {"seconds": round(time.monotonic() - began), "not_reached": len(results.facts["not_reached"])})
    return results.facts


# ------------------------------------------------------------------------------------------------- what is said
def table(facts: Row) -> str:
    """Steps with their ratios to the peers on the same case; ceilings; runs of the loop."""
    steps = [r for r in facts.get("steps", []) if "images_per_second" in r]
    lines = [f"{facts['device']}, torch {facts['torch']}, {facts['precision']}, {facts['date']}", ""]
    lines += [
        "| step | images/s | MFU | MB an image | / transformers | / lightly | memory / transformers |",
        "|---" * 7 + "|",
    ]
    speed = {(r["name"], r["case"], r["compile"]): r for r in steps}
    for r in steps:
        peers = [speed.get((name, r["case"], r["compile"])) if r["name"] == "mae" else None for name in PEERS]
        ratios = [f"{r['images_per_second'] / p['images_per_second']:.2f}" if p else "" for p in peers]
        memory = r.get("memory_mb_per_image")
        theirs = peers[0].get("memory_mb_per_image") if peers[0] else None
        lines.append(
            f"| {r['job']} | {r['images_per_second']:,.0f} | {r['mfu']:.1%} | {memory if memory is not None else ''} | "
            f"{ratios[0]} | {ratios[1]} | {f'{memory / theirs:.2f}' if memory and theirs else ''} |"
        )
    for r in facts.get("loop", []):
        if "images_per_second" in r:
            lines.append(
                f"\nloop from {r['from']}, {r['model']}: {r['images_per_second']:,.0f} images/s, data wait "
                f"{r['shares']['data wait']:.1%}, utilisation {r['utilisation']:.1%}"
            )
    failed = [
        (part, r) for part in ("ceilings", "steps", "loop", "kernels") for r in facts.get(part, []) if "error" in r
    ]
    lines += [f"\n{part}: {r.get('job', r.get('what', ''))}: {r['error']}" for part, r in failed]
    lines += [f"\nnot reached: {short(r)}" for r in facts["not_reached"]]
    return "\n".join(lines)


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<date>-<device>.json")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--images", help="a folder of photographs; default: made on the spot")
    parser.add_argument("--packed", help="the same packed; default: packed on the spot")
    parser.add_argument("--tiny", action="store_true", help="everything at a size that any CPU can do")
    parser.add_argument("--warm", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.warm:
        stepping(Job(*args.warm), device)()
        return
    if device.type != "cuda" and not args.tiny:
        sys.exit("benchmarks.gpu needs a CUDA device (--tiny: everything at a size that any CPU can do)")
    out = args.out
    if out is None and not args.tiny:
        name = torch.cuda.get_device_name().lower().replace(" ", "-")
        out = Path(__file__).parent / "results" / f"{time.strftime('%Y-%m-%d')}-{name}.json"
    print(table(run(device, out, args.minutes, args.images, args.packed, args.tiny)))


if __name__ == "__main__":
    main()

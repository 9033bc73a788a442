"""Everything that only a GPU shows, in one command of less than eight minutes.

    python -m benchmarks.gpu [--out FILE.json] [--minutes 7.5] [--images FOLDER] [--packed DIR] [--tiny]

In the order of what matters most: ceilings of the device; eager steps of MAE beside transformers', which is what people
run; compiled steps of MAE in three sizes beside transformers and lightly, the other methods; the loop from files;
kernels of a step; other micro-batches and ways to compile. Every row is written when it is there.

A process of its own measures. One that crashes, hangs or runs out of memory is a row with the reason, and a new one
goes on. What the time did not reach is listed. Compiling takes most of the time: first, processes beside each other
compile every step into PyTorch's own cache.

Model FLOPs are counted by hand (`benchmarks/count.py`: work that is left out is not counted), the ceiling is measured.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from .gpu_parts import (
    BASE,
    EAGER,
    METHODS_AT_BASE,
    OTHERS,
    SIZES,
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
@dataclass(frozen=True)
class Task:
    """One thing to measure: `function(device, *arguments)` gives a row or several; `what` is added to each."""

    part: str
    what: Row
    function: Callable[..., Iterator[Row] | Row]
    arguments: tuple[Any, ...] = ()
    needs: float = 15.0  # seconds that have to be left
    limit: float = 90.0  # seconds that it may take


def serve(link: Connection, device: torch.device) -> None:
    """Measure what comes over `link`, a row at a time, None after the last; end when a failure may have broken CUDA."""
    while True:
        function, arguments = link.recv()
        try:
            rows = function(device, *arguments)
            for row in [rows] if isinstance(rows, dict) else rows:
                link.send(row)
        except Exception as e:
            link.send({"error": first_line(e)})
            if not isinstance(e, ImportError):
                return
        link.send(None)
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


class Worker:
    """A process that measures. After a crash, an error or a task without end the next task gets a new process."""

    def __init__(self, device: torch.device):
        self.device = device
        self.process: BaseProcess | None = None

    def rows(self, task: Task, limit: float) -> Iterator[Row]:
        if self.process is None or not self.process.is_alive():
            spawn = multiprocessing.get_context("spawn")
            self.link, theirs = spawn.Pipe()
            self.process = spawn.Process(target=serve, args=(theirs, self.device), daemon=False)
            self.process.start()
            theirs.close()
        self.link.send((task.function, task.arguments))
        end, failed = time.monotonic() + limit, False
        try:
            while self.link.poll(max(0.0, end - time.monotonic())):
                row = self.link.recv()
                if row is None:
                    return
                failed = "error" in row
                yield row
            yield {"error": f"no answer within {limit:.0f} s"}
        except (EOFError, ConnectionError):
            self.process.join(5)
            if not failed:
                yield {"error": f"the process ended with exit code {self.process.exitcode}"}
        self.stop()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


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

    def measure(self, worker: Worker, task: Task) -> None:
        """Rows of a task that may fail, if there are as many seconds left as it needs."""
        left = self.until - time.monotonic()
        if left < task.needs:
            self.facts["not_reached"].append({"part": task.part, **task.what})
            return
        for row in worker.rows(task, min(task.limit, left)):
            self.add(task.part, task.what | row)


def warm(results: Results, jobs: list[Job], limit: float, beside: int) -> None:
    """Compile jobs in processes of their own into the cache, so many at a time, until `limit` seconds are over."""
    began = time.monotonic()
    waiting, running = list(jobs), {}
    with tempfile.TemporaryDirectory() as scratch:
        while (waiting or running) and time.monotonic() < began + limit:
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                lines = (Path(scratch) / str(jobs.index(job))).read_text(errors="replace").split("\n")
                reason = {"error": next((line for line in lines[::-1] if line), "")[:200]} if process.returncode else {}
                results.add("compiling", {"job": str(job), "seconds": round(time.monotonic() - began), **reason})
                del running[job]
            while waiting and len(running) < beside:
                job = waiting.pop(0)
                command = [sys.executable, "-m", "benchmarks.gpu", "--warm", job.name, job.case, job.compile]
                with (Path(scratch) / str(jobs.index(job))).open("w") as errors:
                    running[job] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            time.sleep(0.2)
        for process in running.values():
            process.kill()
            process.wait()
    if waiting or running:
        results.add("compiling", {"not finished": [str(job) for job in [*running, *waiting]]})


def steps(jobs: list[Job], peak: float, needs: float = 15.0) -> list[Task]:
    return [Task("steps", {"job": str(job)}, measure, (job, peak), needs) for job in jobs]


def loops(source: str, shards: str, tiny: bool, scratch: Path) -> list[Task]:
    """The loop from a folder and from a pack, which are made where they are not there."""
    count = 12 if tiny else 4000
    base, small = (("vit-micro", 8),) * 2 if tiny else (("vit-base", 256), ("vit-small", 512))
    tasks = [
        Task("loop", {"from": "folder", "model": base[0]}, loop, (tiny, source, *base, scratch), 60.0, 150.0),
        Task("loop", {"from": "packed", "model": small[0]}, loop, (tiny, shards, *small, scratch), 60.0, 150.0),
    ]
    if not Path(shards).exists():
        tasks.insert(1, Task("loop", {"what": "packed"}, made, (packed, Path(source), Path(shards)), 40.0))
    if not Path(source).exists():
        tasks.insert(0, Task("loop", {"what": "photographs"}, made, (photographs, Path(source), count), 60.0))
    return tasks


def made(device: torch.device, make: Callable[..., Path], *arguments: Any) -> Row:
    return {"made": str(make(*arguments))}


def run(
    device: torch.device, out: Path | None, minutes: float, folder: str | None, pack: str | None, tiny: bool
) -> Row:
    """All parts. Returns what is in the file."""
    began = time.monotonic()
    results = Results(out, {**environment(device), "command": sys.argv}, began + 60 * minutes)
    worker = Worker(device)
    results.measure(worker, Task("ceilings", {}, ceilings, (tiny,), 0.0))
    peak = max((r.get("tflops", 0.0) for r in results.facts.get("ceilings", [])[:1]), default=0.0) * 1e12 or float(
        "nan"
    )
    eager, sizes, methods, others = (TINY_JOBS, [], [], []) if tiny else (EAGER, SIZES, METHODS_AT_BASE, OTHERS)
    profiled = TINY_JOBS[:1] if tiny else [Job("mae", BASE), Job("mixed-ae", BASE)]
    with tempfile.TemporaryDirectory() as scratch:
        for task in steps(eager, peak):
            results.measure(worker, task)
        if device.type == "cuda" and not tiny:
            worker.stop()  # its memory
            tiny_case = Case.of(TINY)
            present = [j for j in sizes + methods + others[:3] if j.name not in PEERS or installed(j.name, tiny_case)]
            warm(results, present, 0.4 * (results.until - time.monotonic()), 3)
        source, shards = folder or str(Path(scratch) / "photographs"), pack or str(Path(scratch) / "packed")
        for task in [
            *steps(sizes[:3] + methods, peak),
            *steps(sizes[3:], peak),
            *loops(source, shards, tiny, Path(scratch)),
            *(Task("kernels", {"job": str(job)}, kernels, (job,), 25.0) for job in profiled),
            *steps(others, peak, 30.0),
        ]:
            results.measure(worker, task)
        worker.stop()
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
    ours, theirs = speed.get(("mae", BASE, "default")), speed.get(("transformers", BASE, "eager"))
    if ours and theirs:
        ratio = ours["images_per_second"] / theirs["images_per_second"]
        lines.append(f"\nmae {BASE} compiled, by transformers as people run it (eager): {ratio:.2f}")
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

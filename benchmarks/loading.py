"""Images per second that one loader process reads for training, against torchvision's usual pipeline.

The usual one: ImageFolder, Pillow, RandomResizedCrop (bicubic, antialiased), a flip, ToTensor. Ours: the same crops
from the folder, from a packed copy, from memory; resized by the worker ("CPU"), or left to the GPU, to which the worker
hands pixels and boxes ("device": without the GPU's part). Every pipeline runs in a process of its own with one thread,
as a worker does; its CPU time is measured, system calls included, for the whole data set in every round. Rounds
alternate; numbers are medians over rounds.

    python -m benchmarks.loading --data FOLDER [--size 224] [--rounds N] [--short-side 256] [--decoders] [--out FILE]
    python -m benchmarks.loading --quick [--data FOLDER]     under half a minute: few images, made up without a folder
"""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from maskery.data.crops import Crop
from maskery.data.images import Images
from maskery.data.loader import PREFETCH
from maskery.data.pack.encode import Encoding
from maskery.data.pack.writer import PackOptions, pack_source
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from maskery.data.train_dataset import PIECE, RandomCrops, SamplingPlan, TrainDataset
from maskery.data.transfer import TransferBuffers, keep_freed_memory
from maskery.data.views import likely_bytes
from maskery.terminal import Quiet

from .gpu_parts import photographs

BASE = "torchvision"
QUICK_IMAGES, QUICK_ROUNDS = 48, 3
PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "simplejpeg",
    "numpy",
    "torchcodec",
    "opencv-python-headless",
    "imagecodecs",
)


def usual(files: list[Path], size: int, root: Path) -> Callable[[], None]:
    folder = root / "all"
    folder.mkdir(parents=True)
    for i, file in enumerate(files):  # ImageFolder wants classes
        (folder / f"{i:06}{file.suffix}").symlink_to(file.resolve())
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic, antialias=True),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
    ]
    images = torchvision.datasets.ImageFolder(root, transforms.Compose(steps))

    def read() -> None:
        for i in range(len(images)):
            images[i]

    return read


def ours(images: Images, size: int, device: str) -> Callable[[], None]:
    n = len(images)
    plan = SamplingPlan((size, size), 0, n, device=torch.device(device))
    data = TrainDataset(images, np.arange(n), plan, RandomCrops([Crop()]))
    started = False
    pieces = itertools.count()
    if device == "cuda":
        data.buffers = TransferBuffers(PREFETCH + 1, 1, min(PIECE, n) * likely_bytes(data.format))

    def read() -> None:
        nonlocal started
        if not started:
            keep_freed_memory()  # as a worker does
            started = True
        for _ in range(plan.pieces):
            data[next(pieces)]

    return read


def pipelines(where: Path, size: int, short_side: int, scratch: Path) -> tuple[dict[str, Callable[[], None]], int]:
    """Return the pipelines by name, and how many images one call of each reads."""
    source = open_source(where)
    files = [where / name for name in source.names]

    def of(source: Source) -> Images:
        return Images(source, channels=3, bits=8, pages="first", min_side=2 * size)

    in_memory = of(source)
    if not in_memory.keep_in_memory(range(len(in_memory)), 8e9):
        raise ValueError(f"{where}: the images do not fit into 8 GB of memory: use a part of them")
    copies = {f"packed, short side {short_side}": Encoding(short_side), "packed raw": Encoding(short_side, "raw")}
    packs = {
        name: pack_source(source, scratch / name, PackOptions(encoding, workers=0), Quiet())[0]
        for name, encoding in copies.items()
    }
    read = {BASE: usual(files, size, scratch / "torchvision")}
    for name, images in {"folder": of(source), **{n: of(p) for n, p in packs.items()}, "memory": in_memory}.items():
        read |= {f"{name}, {where}": ours(images, size, d) for where, d in (("device", "cuda"), ("CPU", "cpu"))}
    return read, len(files)


def few_images(where: Path | None, folder: Path) -> Path:
    """Make a folder of the first images of `where`, or of made-up photographs."""
    if where is None:
        return photographs(folder, QUICK_IMAGES)
    for name in itertools.islice(open_source(where).names, QUICK_IMAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((where / name).resolve())
    return folder


def decoders(where: Path) -> tuple[dict[str, Callable[[], None]], int]:
    """JPEG bytes -> an RGB array at full size."""
    source = open_source(where)
    data = [blob for blob in map(source.read, range(len(source))) if blob[:2] == b"\xff\xd8"]

    def pillow(blob: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))

    decode: dict[str, Callable[[bytes], Any]] = {"Pillow": pillow, "simplejpeg": lambda b: simplejpeg.decode_jpeg(b)}
    with suppress(ImportError):
        from torchcodec.decoders import decode_jpeg  # pyright: ignore[reportMissingImports]

        decode["torchcodec"] = decode_jpeg
    with suppress(ImportError):
        import cv2  # pyright: ignore[reportMissingImports]

        cv2.setNumThreads(1)
        decode["OpenCV"] = lambda blob: cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR_RGB)
    with suppress(ImportError):
        import imagecodecs

        decode["imagecodecs"] = imagecodecs.jpeg8_decode

    def all_with(function: Callable[[bytes], Any]) -> Callable[[], None]:
        def work() -> None:
            for blob in data:
                function(blob)

        return work

    return {name: all_with(function) for name, function in decode.items()}, len(data)


def measure(read: dict[str, Callable[[], None]], n: int, rounds: int) -> list[dict[str, Any]]:
    """Measure images per CPU second of each pipeline, and their ratio to the first."""
    base = next(iter(read))
    seconds: dict[str, list[float]] = {name: [] for name in read}
    with ExitStack() as stack:
        # Forked, so that each inherits its pipeline and nothing has to be pickled.
        processes = {name: stack.enter_context(_process(work)) for name, work in read.items()}
        for round_ in range(-1, rounds):  # the first one warms up
            for name in list(read) if round_ % 2 else list(read)[::-1]:
                processes[name].send(None)
                took = processes[name].recv()
                if round_ >= 0:
                    seconds[name].append(max(took, 1e-9))
    rows = []
    for name, took in seconds.items():
        ratios = [b / a for a, b in zip(took, seconds[base], strict=True)]
        rows.append(
            {
                "row": name,
                "images_per_second": round(n / statistics.median(took), 1),
                "ratio": round(statistics.median(ratios), 2),
                "ratios": [round(r, 2) for r in ratios],
            }
        )
    return rows


@contextmanager
def _process(work: Callable[[], None]) -> Iterator[Any]:
    """Start a process; it does `work` whenever it is sent something, and returns the CPU seconds that took."""
    here, there = multiprocessing.Pipe()

    def serve() -> None:
        here.close()
        torch.set_num_threads(1)
        with suppress(EOFError):
            while True:
                there.recv()
                began = time.process_time()
                work()
                there.send(time.process_time() - began)

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


def environment() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def table(rows: list[dict[str, Any]], what: str) -> str:
    lines = [f"| {what} | images/s and core | / {rows[0]['row']} |", "|---|---|---|"]
    lines += [f"| {row['row']} | {row['images_per_second']:,.0f} | {row['ratio']:.2f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of images; with --quick its first ones, or made-up ones")
    parser.add_argument("--size", type=int, default=224, help="pixels of the square crops")
    parser.add_argument("--short-side", type=int, default=256, help="of the packed copy")
    parser.add_argument("--rounds", type=int, help=f"default 7, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_IMAGES} images, in under half a minute")
    parser.add_argument("--decoders", action="store_true", help="JPEG decoders by themselves as well")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.data or args.quick):
        parser.error("--data FOLDER, or --quick")
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else 7)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = few_images(args.data, Path(scratch, "images")) if args.quick else args.data
        read, n = pipelines(folder, args.size, args.short_side, Path(scratch))
        rows = measure(read, n, rounds)
        print(table(rows, f"{n} images, crops of {args.size}"))
        facts = {**environment(), "images": n, "size": args.size, "rows": rows}
        if args.decoders:
            facts["decoders"] = measure(*decoders(folder), rounds)
            print("\n" + table(facts["decoders"], "JPEG to RGB"))
    if args.out:
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

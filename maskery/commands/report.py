"""`maskery report` and `maskery watch`: one page about a run, as a file or served live."""

from pathlib import Path

import torch

from ..config import ImagesConfig
from ..data.dataset import open_data
from ..evals.candidates import Candidate
from ..evals.results import RANDOM, START
from ..html_report.gallery import Gallery, gallery
from ..html_report.run_page import run_page
from ..html_report.server import serve
from ..methods import METHODS
from ..outputs import write_file
from ..runs.directory import RunDirectory, open_tolerantly
from ..terminal import Terminal
from ..weights.load import load_encoder

PAGE = "report.html"
PARTS = "Map, neighbours and attention"
Shown = tuple[Gallery | None, list[str]]  # the gallery of the newest checkpoint, or the reasons why there is none
NOT_REQUESTED: Shown = None, [f"{PARTS}: not asked for."]


def report(
    run: Path, out: Path | None = None, data: str = "", images: int = 400, pictures: bool = True, overwrite: bool = True
) -> Path:
    """One page about a run that needs nothing beside it: health, curves, pictures, a map of your images, evaluations.

    Args:
        run: directory of the run, finished or not
        out: file to write; default: report.html in the run
        data: where the images are now, when they are no longer where the run recorded them
        images: of the map and the neighbours, at most; held-out ones where there are enough
        pictures: also what needs the images and a checkpoint: map, neighbours, attention
        overwrite: replace the page when it exists
    """
    if images < 2:
        raise ValueError(f"--images is {images}: a map needs at least 2")
    run = Path(run)
    directory, target = open_tolerantly(run), Path(out or run / PAGE)
    if target.exists() and not overwrite:
        raise ValueError(f"{target}: exists already")
    shown = open_gallery(directory, data, images) if pictures else NOT_REQUESTED
    write_file(target, run_page(directory, *shown).encode())
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, open it in a browser; it needs nothing beside it")
    return target


def watch(run: Path, port: int = 8765, data: str = "", images: int = 200) -> None:
    """Serve the page of a run on this machine while the run goes on; Ctrl-C ends it and leaves nothing.

    Args:
        run: directory of the run; it need not have begun
        port: of http://127.0.0.1, which only this machine can reach; 0: any that is free
        data: where the images are now, when they are no longer where the run recorded them
        images: of the map and the neighbours, at most; made anew with every checkpoint; 0: none
    """
    open_tolerantly(run)
    cached: dict[str | None, Shown] = {}

    def page(version: str) -> str:
        directory = open_tolerantly(run)
        if directory.last not in cached:
            made = open_gallery(directory, data, images) if images else NOT_REQUESTED
            cached.clear()
            cached[directory.last] = made
        return run_page(directory, *cached[directory.last], version)

    serve(page, lambda: RunDirectory(run).version(), port, Terminal().say)


def open_gallery(directory: RunDirectory, data: str, images: int) -> Shown:
    """The gallery of the newest checkpoint and of what it began with, or the reasons why there is none."""
    try:
        run = directory.run
    except (ValueError, OSError):
        return None, []
    if run.method not in METHODS:
        return None, []
    if not directory.last:
        return None, [f"{PARTS}: they need a checkpoint."]
    missing: list[str] = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        encoder = load_encoder(directory.path, missing.append).to(device)
    except (ValueError, OSError) as e:
        return None, [f"{PARTS}: the checkpoint cannot be used: {e}"]
    try:
        candidate = Candidate(START, Path(run.init)) if run.init else Candidate(RANDOM, None)
        start = candidate.load(run.vit(), run.seed)
        start = start if start.config.image_size == encoder.config.image_size else None
    except (ValueError, OSError, ImportError) as e:
        start, missing = None, [*missing, f"What it was before the first step: {e}"]
    try:
        config = ImagesConfig(**{**vars(run.images), "memory": 0.0})
        terminal = Terminal(messages=False)  # the run has printed them already
        opened = open_data(data or run.data, config, run.size, terminal)
        with terminal.bar("looking at images") as tick:
            return gallery(opened, encoder, start, images, tick), missing
    except (ValueError, OSError, ImportError) as e:
        hint = "" if data else " (--data says where they are now)"
        return None, [*missing, f"{PARTS}: the images cannot be read: {e}{hint}"]

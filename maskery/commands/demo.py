"""`maskery demo`: pretrain, evaluate, report and export in about two and a half minutes on two cores."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ..data.sources.open import open_source
from ..demo import scenes
from ..pictures.plots import learning_curves
from ..runs.metrics import read_rows
from ..terminal import Terminal
from ..train import Result
from .embed import embed
from .export import export
from .pretrain import pretrain
from .report import report


def demo(
    data: str = "",
    out: Path = Path("demo"),
    steps: int = 900,
    images: int = 4000,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Pretrain a small vision transformer, show what it gained, write pictures, export it.

    Args:
        data: your own images instead of the built-in ones
        out: directory for images, run, pictures and exported weights
        steps: length of the run; the default takes about two and a half minutes on two cores
        images: of the built-in ones, so many
        seed: of the built-in images and of the run
        overwrite: replace an earlier demo in `out`
    """
    terminal, start = Terminal(), time.monotonic()
    if images < 20:
        raise ValueError(f"--images is {images}: at least 20, so that some can be held out")
    if data:
        open_source(data)  # an error before anything is removed
    clear(out, overwrite)
    if not data:
        data = str(write_images(out / "images", images, seed, terminal))
    run = out / "run"
    result = pretrain(
        data=data, out=str(run), seed=seed, model="vit-micro", steps=steps, batch_size=64, watch={"looks": 4}
    )
    if result.stopped:
        return result
    export(run, out / "timm")
    embed(run, data, out / "embeddings.parquet")
    curves = learning_curves(read_rows(run / "metrics.jsonl"), run / "curves.png")
    page = report(run)
    print_gains(result.looks[0], result.looks[-1])
    print_outputs(out, curves, page)
    print(f"done in {time.monotonic() - start:.0f} s")
    return result


def write_images(folder: Path, images: int, seed: int, terminal: Terminal) -> Path:
    with terminal.bar("painting scenes") as tick:
        scenes.write_folder(folder, images, seed=seed, progress=tick)
    terminal.say(f"{folder}: {images:,} built-in scenes, ten classes told apart by texture and shape")
    return folder


def clear(out: Path, overwrite: bool) -> None:
    """Remove an earlier demo in `out`. ValueError when it holds something else, or `overwrite` is not set."""
    if out.exists() and any(out.iterdir()):
        if not overwrite or not (out / "run").exists():
            raise ValueError(f"{out}: exists already" + ("; --overwrite replaces it" if not overwrite else ""))
        shutil.rmtree(out)


def print_gains(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Print accuracies and loss of the first and the last evaluation."""
    for name, words, form in (
        ("knn_mean_patch", "nearest neighbours, mean patch token", ".1%"),
        ("knn_class_token", "nearest neighbours, class token", ".1%"),
        ("held_out_loss", "held-out loss, the same masks", ".3f"),
    ):
        if name in after:
            print(f"{words:38} at random initialisation {before[name]:{form}}   after {after[name]:{form}}")


def print_outputs(out: Path, curves: Path | None, page: Path) -> None:
    print(f"reconstructions   {out / 'run' / 'samples'}")
    if curves:
        print(f"learning curves   {curves}")
    print(f"weights for timm  {out / 'timm'}")
    print(f"report            {page}: open it in a browser")

"""All of Maskery in about two and a half minutes on two cores: on built-in images, or on somebody's own."""

import shutil
import time
from pathlib import Path
from typing import Any

from ..data.sources.open import open_source
from ..demo import scenes
from ..pictures.learning_curves import learning_curves
from ..runs.metrics import read_rows
from ..terminal import Terminal
from .embed import embed
from .export import export
from .pretrain import pretrain
from .report import report

BATCH = 64


def demo(
    data: str = "",
    out: Path = Path("demo"),
    steps: int = 900,
    images: int = 4000,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float] | None:
    """Pretrain a small vision transformer, show what it gained, write pictures, export it. None when a signal came.

    Args:
        data: your own images instead of the built-in ones
        out: directory for images, run, pictures and exported weights
        steps: length of the run; the default takes about two and a half minutes on two cores
        images: of the built-in ones, so many
        seed: of the built-in images and of the run
        overwrite: replace an earlier demo in `out`
    """
    terminal, began = Terminal(), time.monotonic()
    if images < 20:
        raise ValueError(f"--images is {images}: at least 20, so that some can be held out")
    if data:
        open_source(data)  # an error before anything is removed
    if out.exists() and any(out.iterdir()):
        if not overwrite or not (out / "run").exists():
            raise ValueError(f"{out}: exists already" + ("; --overwrite replaces it" if not overwrite else ""))
        shutil.rmtree(out)
    settings: dict[str, Any] = {"data": data, "steps": steps, "batch_size": BATCH, "watch": {"looks": 4}}
    if not data:
        with terminal.bar("painting scenes") as tick:
            scenes.write_folder(out / "images", images, seed=seed, progress=tick)
        terminal.say(f"{out / 'images'}: {images:,} built-in scenes, ten classes told apart by texture and shape")
        settings["data"] = str(out / "images")

    result = pretrain(out=str(out / "run"), seed=seed, model="vit-micro", **settings)
    if result.stopped:
        return None

    export(out / "run", out / "timm")
    embed(out / "run", settings["data"], out / "embeddings.parquet")
    curves = learning_curves(read_rows(out / "run" / "metrics.jsonl"), out / "run" / "curves.png")
    page = report(out / "run")
    before, after = result.looks[0], result.looks[-1]
    for name, words in (
        ("knn_mean_patch", "nearest neighbours, mean patch token"),
        ("knn_class_token", "nearest neighbours, class token"),
        ("held_out_loss", "held-out loss, the same masks"),
    ):
        if name in after:
            form = ".3f" if "loss" in name else ".1%"
            print(f"{words:38} at random initialisation {before[name]:{form}}   after {after[name]:{form}}")
    print(f"reconstructions   {out / 'run' / 'samples'}")
    if curves:
        print(f"learning curves   {curves}")
    print(f"weights for timm  {out / 'timm'}")
    print(f"report            {page}: open it in a browser")
    print(f"done in {time.monotonic() - began:.0f} s")
    return {f"{name}_{when}": look[name] for when, look in (("before", before), ("after", after)) for name in look}

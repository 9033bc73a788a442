"""From options to a run that goes: `pretrain` and `resume`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from . import recipes
from .config import Run
from .data.dataset import source_of
from .data.source import split_indices
from .data.survey import survey
from .dist import world
from .methods import METHODS
from .nn.vit import SIZES
from .options import UsageError, options, parse, unknown, value_of
from .train import Result, train
from .weights import run_from, run_of


@dataclass(frozen=True)
class Pretrain(Run):
    """Pretrain a vision transformer on a folder of images. Unless a recipe or a config says otherwise, the settings
    are chosen from the number and size of the images."""

    out: str = ""  # directory of the run; refused when it exists
    recipe: str | None = None  # a run with a name: `maskery list recipes`
    config: str | None = None  # a saved config.yaml
    overwrite: bool = False  # remove the run that is in `out`


def pretrain(args: Sequence[str] = (), **leaves: Any) -> Result:
    """`maskery pretrain`: options as a list, or in Python `pretrain(data=..., out=..., optim={"base_lr": 1e-3})`."""
    args = [*args, *options(leaves)]
    asked = parse(Pretrain, args, "maskery pretrain", _given(args))
    if not asked.data:
        raise UsageError("--data is missing: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    if not asked.out:
        raise UsageError("--out is missing: the directory of the run")
    for name, value in (("batch-size", asked.batch_size), ("optim.accumulate", asked.optim.accumulate)):
        if value < 1:
            raise UsageError(f"--{name} is {value}: it has to be at least 1")
    out = Path(asked.out)
    with world() as here:
        if here.main:
            _refuse(out, asked.overwrite)
        run, reasons = asked, ()
        if not asked.recipe and not asked.config:
            source = source_of(asked.data, asked.images)
            known = survey(source, sample=200, decode_pixels=False, pages=asked.images.pages)
            images = len(split_indices(source, asked.images.holdout)[0])
            chosen = {
                n: getattr(asked, n) for n in ("model", "patch_size", "image_size", "batch_size") if _has(args, n)
            }
            suggestion = recipes.suggest(
                images,
                known.heights[1],
                known.widths[1],
                "cuda" if here.device.type == "cuda" else "cpu",
                method=asked.method,
                **chosen,
            )
            run = parse(Pretrain, args, "maskery pretrain", _as_pretrain(suggestion.run))
            reasons = suggestion.reasons
        run = Run(**{f.name: getattr(run, f.name) for f in fields(Run)})
        if _has(args, "epochs") and not _has(args, "steps"):
            run = replace(run, steps=None)
        _check(run)
        here.wait()
        return train(run, out, here, reasons, overwrite=asked.overwrite)


def resume(run: str | Path) -> Result:
    """Go on with an interrupted run, as if nothing had happened."""
    out = Path(run)
    if not out.is_dir():
        raise ValueError(f"{out}: there is no such run")
    with world() as here:
        notes: list[str] = []
        known = run_of(out, notes.append)
        return train(known, out, here, notes, resume=True)


def _given(args: Sequence[str]) -> Pretrain:
    """What a named recipe, a config or nothing gives, before the options."""
    recipe, config, method = (value_of(args, f"--{name}") for name in ("recipe", "config", "method"))
    if recipe and config:
        raise UsageError("--recipe and --config both describe a run: give one of them")
    if recipe and recipe not in recipes.RECIPES:
        raise unknown("recipe", recipe, recipes.RECIPES)
    if method and method not in METHODS:
        raise unknown("method", method, METHODS)
    if config:
        run = run_from(Path(config))
    elif recipe:
        run = recipes.RECIPES[recipe]()
    else:
        run = Run(settings=METHODS[method or "mae"].Config())
    if method and method != run.method:
        run = replace(run, method=method, settings=METHODS[method].Config())
    return _as_pretrain(run)


def _as_pretrain(run: Run) -> Pretrain:
    return Pretrain(**{f.name: getattr(run, f.name) for f in fields(Run)})


def _has(args: Sequence[str], name: str) -> bool:
    return value_of(args, f"--{name.replace('_', '-')}") is not None


def _check(run: Run) -> None:
    """What no type can say, before any image is decoded. ValueError in one line."""
    if run.model not in SIZES:
        raise unknown("model", run.model, SIZES)
    if not (run.steps or run.epochs) or (run.steps or 0) < 0 or (run.epochs or 0) < 0:
        raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
    channels = len(run.images.mean or run.images.std or (0, 0, 0))
    mean, std = run.images.mean or (0.5,) * channels, run.images.std or (0.5,) * channels
    known = replace(run.images, mean=mean, std=std)
    with torch.device("meta"):  # built without memory: sizes, patches, mask ratio
        METHODS[run.method](run.settings, replace(run, images=known).vit())


def _refuse(out: Path, overwrite: bool) -> None:
    """ValueError when `out` holds something that is not to be replaced. Nothing is removed before the run begins."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it, `maskery resume {out}` goes on with it")
    if not (out / "config.yaml").exists():
        raise ValueError(f"{out}: holds something else than a run and is not replaced")

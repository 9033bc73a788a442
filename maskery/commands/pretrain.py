"""From options to a run that goes: `pretrain` and `resume`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from .. import recipes
from ..config import Run
from ..data.sources.open import open_source
from ..data.sources.source import split_indices
from ..data.survey import survey
from ..distributed import world
from ..methods import METHODS
from ..nn.vit import SIZES
from ..objective import Objective
from ..options import UsageError, options, parse, unknown, value_of
from ..runs.directory import open_run, read_config
from ..trackers import tracker
from ..train import Result, train
from ..weights.teacher import build_objective


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
    out = Path(asked.out)
    with world() as here:
        if here.main:
            _refuse(out, asked.overwrite)
        base, reasons = base_for(args, here.device)
        run, _ = filled(args, base)
        here.wait()
        return train(run, out, here, reasons, overwrite=asked.overwrite)


def base_for(args: Sequence[str], device: torch.device) -> tuple[Run, Sequence[str]]:
    """What a recipe, a config, or else the number and size of the images give, and why; options come on top."""
    asked = parse(Pretrain, args, "maskery pretrain", _given(args))
    for name, value in (("batch-size", asked.batch_size), ("micro-batch", asked.micro_batch)):
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name} is {value}: it has to be at least 1")
    if asked.recipe or asked.config:
        return _as_run(_given(args)), ()
    source = open_source(asked.data, asked.images)
    known = survey(source, sample=200, pages=asked.images.pages)
    suggestion = recipes.suggest(
        len(split_indices(source, asked.images.holdout)[0]),
        known.heights[1],
        known.widths[1],
        "cuda" if device.type == "cuda" else "cpu",
        method=asked.method,
        **{n: getattr(asked, n) for n in ("model", "patch_size", "image_size", "batch_size") if _has(args, n)},
    )
    return suggestion.run, suggestion.reasons


def filled(args: Sequence[str], base: Run, *, build: bool = True) -> tuple[Run, Objective | None]:
    """The run that options make of `base`, checked before any image is decoded, and its objective without memory.

    With `build` False there is none, and what only its construction finds is not found: a file that is still missing.
    """
    run = _as_run(parse(Pretrain, args, "maskery pretrain", _as_pretrain(base)))
    if _has(args, "epochs") and not _has(args, "steps"):
        run = replace(run, steps=None)
    return run, _check(run, build)


def of_method(run: Run, method: str) -> Run:
    """The same run by another method: what was set of the parts that every MAE has stays, where it has them too."""
    if method == run.method:
        return run
    old, usual, new = run.settings, METHODS[run.method].Config(), METHODS[method].Config()
    plain, ours, theirs = ({f.name for f in fields(x)} for x in (METHODS["mae"].Config, old, new))
    kept = {n: getattr(old, n) for n in plain & ours & theirs if getattr(old, n) != getattr(usual, n)}
    return replace(run, method=method, settings=replace(new, **kept))


def resume(run: str | Path, micro_batch: int | Literal["auto"] | None = None, shard: bool | None = None) -> Result:
    """Go on with an interrupted run, as if nothing had happened.

    The number of processes may be another one, and what only says how they share the work, too.

    Args:
        run: its directory
        micro_batch: images per forward and process, at most; auto: search anew for the most that fit
        shard: share the parameters out among the processes, or no longer (--shard, --no-shard); default: as before
    """
    out = Path(run)
    if not out.is_dir():
        raise ValueError(f"{out}: there is no such run")
    with world() as here:
        notes: list[str] = []
        known = open_run(out, notes.append).run
        changed = {"micro_batch": micro_batch, "shard": shard}
        known = replace(known, **{name: value for name, value in changed.items() if value is not None})
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
        run = read_config(Path(config))
        if run.method not in METHODS:
            raise UsageError(f"{config}: a run of {run.method}, which learns from labels: `maskery eval {run.method}`")
    elif recipe:
        run = recipes.RECIPES[recipe]()
    else:
        run = Run(settings=METHODS[method or "mae"].Config())
    return _as_pretrain(of_method(run, method) if method else run)


def _as_pretrain(run: Run) -> Pretrain:
    return Pretrain(**{f.name: getattr(run, f.name) for f in fields(Run)})


def _as_run(asked: Pretrain) -> Run:
    return Run(**{f.name: getattr(asked, f.name) for f in fields(Run)})


def _has(args: Sequence[str], name: str) -> bool:
    return value_of(args, f"--{name.replace('_', '-')}") is not None


def _check(run: Run, build: bool) -> Objective | None:
    """What no type can say, before any image is decoded. ValueError in one line."""
    if run.model not in SIZES:
        raise unknown("model", run.model, SIZES)
    tracker.check(run.log)
    if not (run.steps or run.epochs) or (run.steps or 0) < 0 or (run.epochs or 0) < 0:
        raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
    channels = len(run.images.mean or run.images.std or (0, 0, 0))
    mean, std = run.images.mean or (0.5,) * channels, run.images.std or (0.5,) * channels
    vit = replace(run, images=replace(run.images, mean=mean, std=std)).vit()
    if not build:
        return None
    with torch.device("meta"):  # built without memory: sizes, patches, mask ratio
        return build_objective(METHODS[run.method], run.settings, vit)


def _refuse(out: Path, overwrite: bool) -> None:
    """ValueError when `out` holds something that is not to be replaced. Nothing is removed before the run begins."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it, `maskery resume {out}` goes on with it")
    if not (out / "config.yaml").exists():
        raise ValueError(f"{out}: holds something else than a run and is not replaced")

"""`maskery pretrain`: a recipe, a config, or else the survey of the images gives a run; options are applied to it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from .. import recipes
from ..config import Run
from ..data.dataset import SurveyedSource, survey_source
from ..data.sources.source import split_indices
from ..distributed import world
from ..methods import METHODS
from ..nn.vit import SIZES
from ..objective import Objective
from ..options import UsageError, options, parse, unknown, value_of
from ..runs.directory import read_config
from ..suggest import Suggestion, suggest
from ..terminal import Quiet, Reporter, Terminal
from ..trackers import tracker
from ..train import Result, train
from ..weights.teacher import build_objective


@dataclass(frozen=True)
class PretrainOptions:
    """Pretrain a vision transformer on a folder of images. Unless a recipe or a config says otherwise, the settings
    are chosen from the number and size of the images."""

    run: Annotated[Run, tyro.conf.arg(name="")]
    out: str = ""  # directory of the run; refused when it exists
    recipe: str | None = None  # a run with a name: `maskery list recipes`
    config: str | None = None  # a saved config.yaml
    overwrite: bool = False  # remove the run that is in `out`


def pretrain(args: Sequence[str] = (), **leaves: Any) -> Result:
    """`maskery pretrain`: options as a list, or in Python `pretrain(data=..., out=..., optim={"base_lr": 1e-3})`."""
    args = [*args, *options(leaves)]
    chosen = parse_options(args)
    if not chosen.run.data:
        raise UsageError("--data is missing: a folder of images, a list (.txt, .csv) or a table (.parquet, .arrow)")
    if not chosen.out:
        raise UsageError("--out is missing: the directory of the run")
    out = Path(chosen.out)
    with world() as here:
        if here.main:
            check_out(out, chosen.overwrite)
        base, surveyed = base_run(chosen, args, here.device, Terminal() if here.main else Quiet())
        run, _ = apply_args(args, base.run)
        here.wait()
        return train(run, out, here, base.reasons, overwrite=chosen.overwrite, surveyed=surveyed)


def check_out(out: Path, overwrite: bool) -> None:
    """ValueError when `out` holds something that must not be replaced. Nothing is removed before the run begins."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it, `maskery resume {out}` goes on with it")
    if not (out / "config.yaml").exists():
        raise ValueError(f"{out}: holds something else than a run and is not replaced")


def parse_options(args: Sequence[str]) -> PretrainOptions:
    """Parse options on top of a recipe or config that they name. `UsageError` in one line."""
    return parse(PretrainOptions, args, "maskery pretrain", PretrainOptions(named_base(args)))


def base_run(
    options: PretrainOptions, args: Sequence[str], device: torch.device, report: Reporter
) -> tuple[Suggestion, SurveyedSource | None]:
    """Take the run of a recipe or config, or suggest one for the images, which are opened and surveyed for that."""
    run = options.run
    for name, value in (("batch-size", run.batch_size), ("micro-batch", run.micro_batch)):
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name} is {value}: it has to be at least 1")
    if options.recipe or options.config:
        return Suggestion(named_base(args), ()), None
    surveyed = survey_source(run.data, run.images, report)
    train, _ = split_indices(surveyed.source, run.images.holdout)
    suggestion = suggest(
        len(train),
        (surveyed.survey.heights[1], surveyed.survey.widths[1]),
        "cuda" if device.type == "cuda" else "cpu",
        run.method,
        {n: getattr(run, n) for n in ("model", "patch_size", "image_size", "batch_size") if _is_given(args, n)},
    )
    return suggestion, surveyed


def apply_args(args: Sequence[str], base: Run, *, build: bool = True) -> tuple[Run, Objective | None]:
    """Parse `args` on top of the base and check the run; also its objective without memory.

    With `build` False there is none, and errors that only its construction finds are not found: a missing file.
    """
    run = with_length(parse(PretrainOptions, args, "maskery pretrain", PretrainOptions(base)).run, args)
    return run, check_run(run, build)


def with_length(run: Run, args: Sequence[str]) -> Run:
    """Epochs that were given take precedence over the base's steps. UsageError when there is nothing to train."""
    if _is_given(args, "epochs") and not _is_given(args, "steps"):
        run = replace(run, steps=None)
    length = run.epochs if run.steps is None else run.steps
    if not length or min(length, run.epochs or 0) < 0:
        raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
    return run


def with_method(run: Run, method: str) -> Run:
    """The same run with another method; changed settings that every MAE has stay, where the method has them too."""
    if method == run.method:
        return run
    old, default, new = run.settings, METHODS[run.method].Config(), METHODS[method].Config()
    common = set.intersection(*({f.name for f in fields(x)} for x in (METHODS["mae"].Config, old, new)))
    changed = {n: getattr(old, n) for n in common if getattr(old, n) != getattr(default, n)}
    return replace(run, method=method, settings=replace(new, **changed))


def check_run(run: Run, build: bool = True) -> Objective | None:
    """Check what types cannot, before any image is decoded. ValueError in one line."""
    if run.model not in SIZES:
        raise unknown("model", run.model, SIZES)
    tracker.check_trackers(run.log)
    channels = len(run.images.mean or run.images.std or (0, 0, 0))
    mean, std = run.images.mean or (0.5,) * channels, run.images.std or (0.5,) * channels
    vit = replace(run, images=replace(run.images, mean=mean, std=std)).vit()
    if not build:
        return None
    with torch.device("meta"):  # built without memory: sizes, patches, mask ratio
        return build_objective(METHODS[run.method], run.settings, vit)


def named_base(args: Sequence[str]) -> Run:
    """The run of the recipe or config that `args` name, else the defaults of the method."""
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
    return with_method(run, method) if method else run


def _is_given(args: Sequence[str], name: str) -> bool:
    return value_of(args, f"--{name.replace('_', '-')}") is not None

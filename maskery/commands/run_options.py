"""Build a run: a recipe, a config, or else the survey of the images gives a base; options are applied to it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from .. import recipes
from ..config import Run
from ..data.dataset import SurveyedSource, survey_source
from ..data.sources.source import split_indices
from ..methods import METHODS
from ..nn.vit import SIZES
from ..objective import Objective
from ..options import UsageError, overlay, parse, unknown, value_of
from ..runs.directory import read_config
from ..suggest import suggest
from ..terminal import Reporter
from ..trackers import tracker
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


@dataclass(frozen=True)
class BaseRun:
    """What options are applied to."""

    run: Run
    reasons: Sequence[str] = ()  # for the settings chosen from the images
    surveyed: SurveyedSource | None = None  # the images, where they had to be opened for that


def parse_options(args: Sequence[str], program: str = "maskery pretrain") -> PretrainOptions:
    """Parse options on top of a recipe or config that they name. `UsageError` in one line."""
    return parse(PretrainOptions, args, program, PretrainOptions(_named_base(args)))


def base_run(options: PretrainOptions, args: Sequence[str], device: torch.device, report: Reporter) -> BaseRun:
    """Take the run of a recipe or config, or suggest one for the images."""
    run = options.run
    for name, value in (("batch-size", run.batch_size), ("micro-batch", run.micro_batch)):
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name} is {value}: it has to be at least 1")
    if options.recipe or options.config:
        return BaseRun(_named_base(args))
    surveyed = survey_source(run.data, run.images, report)
    train, _ = split_indices(surveyed.source, run.images.holdout)
    suggestion = suggest(
        len(train),
        (surveyed.survey.heights[1], surveyed.survey.widths[1]),
        "cuda" if device.type == "cuda" else "cpu",
        run.method,
        {n: getattr(run, n) for n in ("model", "patch_size", "image_size", "batch_size") if _is_given(args, n)},
    )
    return BaseRun(suggestion.run, suggestion.reasons, surveyed)


def apply_options(options: PretrainOptions, args: Sequence[str], base: Run) -> Run:
    """The base with every setting that `args` name, checked before any image is decoded."""
    run = _length(overlay(base, options.run, args), args)
    check_run(run)
    return run


def apply_args(args: Sequence[str], base: Run, *, build: bool = True) -> tuple[Run, Objective | None]:
    """Parse `args` on top of the base and check the run; also its objective without memory.

    With `build` False there is none, and errors that only its construction finds are not found: a missing file.
    """
    run = _length(parse(PretrainOptions, args, "maskery pretrain", PretrainOptions(base)).run, args)
    return run, check_run(run, build)


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
    if not (run.steps or run.epochs) or (run.steps or 0) < 0 or (run.epochs or 0) < 0:
        raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
    channels = len(run.images.mean or run.images.std or (0, 0, 0))
    mean, std = run.images.mean or (0.5,) * channels, run.images.std or (0.5,) * channels
    vit = replace(run, images=replace(run.images, mean=mean, std=std)).vit()
    if not build:
        return None
    with torch.device("meta"):  # built without memory: sizes, patches, mask ratio
        return build_objective(METHODS[run.method], run.settings, vit)


def _named_base(args: Sequence[str]) -> Run:
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


def _length(run: Run, args: Sequence[str]) -> Run:
    """Epochs that were given take precedence over the base's steps."""
    return replace(run, steps=None) if _is_given(args, "epochs") and not _is_given(args, "steps") else run


def _is_given(args: Sequence[str], name: str) -> bool:
    return value_of(args, f"--{name.replace('_', '-')}") is not None

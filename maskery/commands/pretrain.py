"""`maskery pretrain`: train a new run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..distributed import world
from ..options import UsageError, options
from ..terminal import Quiet, Terminal
from ..train import Result, train
from .run_options import apply_options, base_run, parse_options


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
        base = base_run(chosen, args, here.device, Terminal() if here.main else Quiet())
        run = apply_options(chosen, args, base.run)
        here.wait()
        return train(run, out, here, base.reasons, overwrite=chosen.overwrite, surveyed=base.surveyed)


def check_out(out: Path, overwrite: bool) -> None:
    """ValueError when `out` holds something that must not be replaced. Nothing is removed before the run begins."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; --overwrite replaces it, `maskery resume {out}` goes on with it")
    if not (out / "config.yaml").exists():
        raise ValueError(f"{out}: holds something else than a run and is not replaced")

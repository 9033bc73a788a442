"""`maskery resume`: continue an interrupted run."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..distributed import world
from ..runs.directory import open_run
from ..train import Result, train


def resume(run: str | Path, micro_batch: int | Literal["auto"] | None = None, shard: bool | None = None) -> Result:
    """Go on with an interrupted run, as if nothing had happened.

    The number of processes may differ, and so may the options that only distribute the work.

    Args:
        run: its directory
        micro_batch: images per forward and process, at most; auto: search anew for the most that fit
        shard: shard the parameters over the processes, or no longer (--shard, --no-shard); default: as before
    """
    out = Path(run)
    if not out.is_dir():
        raise ValueError(f"{out}: there is no such run")
    with world() as here:
        notes: list[str] = []
        stored = open_run(out, notes.append).run
        changes = {"micro_batch": micro_batch, "shard": shard}
        stored = replace(stored, **{name: value for name, value in changes.items() if value is not None})
        return train(stored, out, here, notes, resume=True)

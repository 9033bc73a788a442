"""A run of Weights & Biases."""

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ..config import Run
from ..text import one_line
from .tracker_ids import CLOSE_TIMEOUT, Say, TrackerIds

INIT_TIMEOUT = 30.0  # seconds that the start of a run waits for Weights & Biases


class Wandb:
    """A run of Weights & Biases; offline with WANDB_MODE=offline, without a login, and without a network.

    An offline run is stored in RUN/wandb; `wandb sync` uploads it.
    """

    def __init__(self, run: Run, out: Path, ids: TrackerIds, say: Say):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.errors import Error as WandbError

        self.ids, self.say, self.picture_failed = ids, say, False
        run_id = ids["wandb"] or secrets.token_hex(4)
        ids["wandb"] = run_id
        entity, _, project = str(run.log.wandb).rpartition("/")
        settings = wandb.Settings(
            init_timeout=INIT_TIMEOUT,
            login_timeout=10,
            finish_timeout=CLOSE_TIMEOUT,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
        )
        options: dict[str, Any] = {
            "project": project,
            "entity": entity or None,
            "id": run_id,
            "resume": "allow",
            "name": out.absolute().name,
            "dir": str(out),
            "config": asdict(run),
            "settings": settings,
        }
        try:
            if "WANDB_MODE" not in os.environ:
                _check_reachable(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
            self.run = wandb.init(**options)
        except (WandbError, OSError) as e:
            say(f"Weights & Biases cannot be reached ({one_line(e)}): going on offline")
            wandb.teardown()  # it otherwise takes the failed run for a running one
            self.run = wandb.init(**options, mode="offline")
        offline = f"run {run_id}, kept in {out / 'wandb'} until `wandb sync` uploads it"
        say(f"Weights & Biases: {self.run.url or offline}")
        self.run.define_metric("*", step_metric="step")  # steps repeated after a resume keep their place

    def log(self, facts: Mapping[str, Any]) -> None:
        try:
            self.run.log(dict(facts))
        except Exception as e:  # of any kind: a tracker never stops a run
            self.say(f"Weights & Biases did not take a line, metrics.jsonl has it: {one_line(e)}")

    def picture(self, file: Path, step: int) -> None:
        import wandb

        try:
            if int(self.ids["wandb pictures"] or -1) >= step:
                return  # drawn again after a resume: it would come after later ones
            self.run.log({"samples": wandb.Image(str(file), caption=f"step {step}"), "step": step})
            self.ids["wandb pictures"] = str(step)
        except Exception as e:
            if not self.picture_failed:
                self.say(f"Weights & Biases did not take a picture, samples/ has them: {one_line(e)}")
            self.picture_failed = True

    def close(self, *, failed: bool) -> None:
        try:
            self.run.finish(exit_code=int(failed))
        except Exception as e:
            self.say(f"Weights & Biases did not take the end of the run: {one_line(e)}")


def _check_reachable(address: str) -> None:
    """OSError at once when no server answers; wandb itself would retry until its timeout."""
    url = urlsplit(address)
    if not getproxies():
        socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=5).close()

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
from .names import FAREWELL, Names, Say

WELCOME = 30.0  # seconds that its beginning waits for Weights & Biases


class Wandb:
    """A run of Weights & Biases; offline when WANDB_MODE says so, when nobody is logged in, and without a network.

    Offline it is kept in RUN/wandb, and `wandb sync` uploads it.
    """

    def __init__(self, run: Run, out: Path, names: Names, say: Say):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.errors import Error as WandbError

        self.names, self.say, self.told = names, say, False  # told: of pictures
        name = names["wandb"] or secrets.token_hex(4)
        names["wandb"] = name
        entity, _, project = str(run.log.wandb).rpartition("/")
        settings = wandb.Settings(
            init_timeout=WELCOME,
            login_timeout=10,
            finish_timeout=FAREWELL,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
        )
        how: dict[str, Any] = {
            "project": project,
            "entity": entity or None,
            "id": name,
            "resume": "allow",
            "name": out.absolute().name,
            "dir": str(out),
            "config": asdict(run),
            "settings": settings,
        }
        try:
            if "WANDB_MODE" not in os.environ:
                _call(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
            self.run = wandb.init(**how)
        except (WandbError, OSError) as e:
            say(f"Weights & Biases cannot be reached ({one_line(e)}): going on offline")
            wandb.teardown()  # which otherwise believes that the run goes on
            self.run = wandb.init(**how, mode="offline")
        kept = f"run {name}, kept in {out / 'wandb'} until `wandb sync` uploads it"
        say(f"Weights & Biases: {self.run.url or kept}")
        self.run.define_metric("*", step_metric="step")  # lines that are made again after a resume keep their place

    def log(self, facts: Mapping[str, Any]) -> None:
        try:
            self.run.log(dict(facts))
        except Exception as e:  # of whatever kind: a run does not end for it
            self.say(f"Weights & Biases did not take a line, metrics.jsonl has it: {one_line(e)}")

    def picture(self, file: Path, step: int) -> None:
        import wandb

        try:
            if int(self.names["wandb pictures"] or -1) >= step:
                return  # made again after a resume: it would stand behind later ones
            self.run.log({"samples": wandb.Image(str(file), caption=f"step {step}"), "step": step})
            self.names["wandb pictures"] = str(step)
        except Exception as e:
            if not self.told:
                self.say(f"Weights & Biases did not take a picture, samples/ has them: {one_line(e)}")
            self.told = True

    def close(self, *, failed: bool) -> None:
        try:
            self.run.finish(exit_code=int(failed))
        except Exception as e:
            self.say(f"Weights & Biases was not told of the end: {one_line(e)}")


def _call(address: str) -> None:
    """OSError at once where nobody is; wandb itself would try for as long as it may."""
    url = urlsplit(address)
    if not getproxies():
        socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=5).close()

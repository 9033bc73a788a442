"""Commands in pages: found in their shell blocks, made short, run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from maskery.cli import FAILED, main

ROOT = Path(__file__).parents[1]
SMALL = ["--patch-size", "8", "--image-size", "32", "--batch-size", "8", "--watch.looks", "1"]
SMALL += ["--settings.decoder.dim", "32", "--settings.decoder.heads", "4"]
SHORT = ["--steps", "4", "--model", "vit-micro", *SMALL]
TRAINED = ["--steps", "2", "--batch-size", "8", "--watch.looks", "1", "--seeds", "1"]  # probe, finetune, ...


def blocks(text: str, language: str) -> list[str]:
    """The code blocks whose fence says exactly `language`."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of every command of the page's shell blocks, in order, without comments."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str]) -> None:
    """Run one command as it stands, but few steps of a small network on small images; --out may exist."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[0] == "pip":
        assert words == ["pip", "install", "."]
    elif words[0] == "torchrun":
        words = ["2" if word == "8" else word for word in words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:], *SHORT, "--overwrite"]
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    else:
        assert words[0] == "maskery", words
        assert main([*words[1:], *less(words)]) == 0, words


def understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run one command where there is nothing: all options are known, and only what it works on is missing.

    For commands that take too long to be run, or whose work other tests do. Returns what it said.
    """
    if words[0] == "torchrun":
        asked = get_args_parser().parse_args(words[1:])  # SystemExit for an option that torchrun does not have
        assert asked.module
        assert asked.training_script == "maskery"
        words = ["maskery", *asked.training_script_args]
    capsys.readouterr()
    code, said = main(words[1:]), capsys.readouterr().err
    assert code == FAILED or "is no run" in said, f"{words}: {said}"  # MISUSED, were an option unknown
    assert re.search(r"no such (file|run)|there is nothing|is no run|no classifier|needs several processes", said), said
    return said


def less(words: list[str]) -> list[str]:
    """The options that make a command short."""
    verb, kind = words[1], words[2] if words[1] == "eval" else None
    if kind in ("probe", "finetune") and "--quick" not in words:
        return TRAINED
    if kind in ("knn", "probe"):
        return ["--seeds", "1"] if "--seeds" in words else []
    if verb == "profile":
        return [*SHORT[2:], "--timed", "2"]
    if verb == "compare":
        return ["--seeds", "1", *SMALL[:-4], "--budget", "epochs:0.5"]
    if verb == "pretrain" and "--init" in words:  # the files that pages name are of a ViT-Ti here
        return ["--steps", "2", "--model", "vit-tiny", *SMALL, "--overwrite"]
    return [*SHORT, "--overwrite"] if verb == "pretrain" else []

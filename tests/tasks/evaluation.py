"""Evaluations that train on labels, as tests run them: a tiny encoder, small data, few steps."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maskery
from maskery.cli import main


@dataclass(frozen=True)
class Evaluation:
    """`maskery eval KIND` of an encoder after two steps: none of this is about how good it is."""

    kind: str
    data: Path
    encoder: Path
    small: tuple[str, ...] = ()

    @classmethod
    def of(cls, kind: str, data: Path, folder: Path, size: int, images: str = "", small: tuple[str, ...] = ()) -> Any:
        tiny = {"model": "vit-micro", "patch_size": 8, "image_size": size, "batch_size": 16, "watch": {"looks": 0}}
        settings = {"decoder": {"dim": 32, "depth": 1, "heads": 4}}
        out = folder / "run"
        maskery.pretrain(data=data / images, out=out, steps=2, settings=settings, images={"workers": 0}, **tiny)
        return cls(kind, data, out, ("--images.workers", "0", "--no-overlap", "--watch.log-every", "4", *small))

    def command(self, out: Path, *options: str, data: Path | None = None) -> list[str]:
        place = ["--data", str(data or self.data), "--out", str(out)]
        return ["eval", self.kind, str(self.encoder), *place, *self.small, *options]

    def run(self, out: Path, *options: str, data: Path | None = None) -> Path:
        """The run directory of the encoder's only seed."""
        assert main(self.command(out, *options, data=data)) == 0
        return out / "end-seed0"


def result_of(member: Path) -> dict[str, Any]:
    return json.loads((member / "evals" / "result.json").read_text())


def periodic(member: Path, name: str) -> list[dict[str, Any]]:
    """The periodic evaluations: the lines of metrics.jsonl that have a number of this name."""
    return [json.loads(line) for line in (member / "metrics.jsonl").read_text().splitlines() if f'"{name}"' in line]


def cut_off(whole: Path, broken: Path, step: int) -> None:
    """Copy a run as it was when its checkpoint of this step had been written."""
    shutil.copytree(whole, broken)
    for checkpoint in (broken / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    (broken / "checkpoints" / "last").write_text(f"step-{step:08d}\n")

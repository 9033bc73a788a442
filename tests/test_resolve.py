"""What a run leaves open is decided by the data and the machine, and nothing else is touched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskery.config import ImagesConfig, Run
from maskery.data.dataset import open_data
from maskery.resolve import resolved
from maskery.terminal import Quiet

CPU = torch.device("cpu")


def test_what_is_left_open_is_decided(scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene_folder.parent)
    data = open_data(str(scene_folder), ImagesConfig(memory=0), (32, 32), Quiet())
    run = Run(settings=None, data=scene_folder.name, steps=3)
    found = resolved(run, data, CPU)
    assert found == replace(run, data=str(scene_folder), images=data.config, precision="float32", compile="off")
    assert found.images.mean is not None


def test_what_is_asked_for_stays(scene_folder: Path) -> None:
    data = open_data(str(scene_folder), ImagesConfig(memory=0), (32, 32), Quiet())
    run = Run(settings=None, data=str(scene_folder), precision="bf16", compile="on")
    assert (found := resolved(run, data, CPU)).precision == "bf16"
    assert found.compile == "on"
    assert resolved(found, data, CPU) == found

"""A finished run, and a copy of it for a test to change."""

import shutil
from pathlib import Path

import pytest

import maskery
from tests.test_train import TINY


@pytest.fixture(scope="session")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=8, **TINY)
    return out


@pytest.fixture
def part(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")

"""A run as a file: what comes back is what was written."""

from pathlib import Path
from typing import Any

import pytest

from maskery import config
from maskery.config import ImagesConfig, Run
from maskery.methods import METHODS
from maskery.objectives import OBJECTIVES
from maskery.runs.directory import read_config


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    run = Run(METHODS["msa"].Config(), method="msa", micro_batch=64, shard=True, image_size=(32, 64))
    (tmp_path / "config.yaml").write_text(config.dump(run))
    assert read_config(tmp_path / "config.yaml") == run


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_settings_of_every_objective_come_back_from_the_file(name: str, tmp_path: Path) -> None:
    changed: dict[str, dict[str, Any]] = {
        "segment": {"reduce_zero_label": "on", "freeze": True},
        "probe": {"lrs": (0.5, 2.0), "layer": 3},
    }
    run = Run(
        OBJECTIVES[name].Config(**changed.get(name, {})), method=name, images=ImagesConfig(mean=(0.5,), std=(0.2,))
    )
    (tmp_path / "config.yaml").write_text(config.dump(run))
    assert read_config(tmp_path / "config.yaml") == run

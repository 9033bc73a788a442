"""A run as a file: what comes back is what was written."""

from pathlib import Path

from maskery import config
from maskery.config import Run
from maskery.methods import METHODS
from maskery.weights import run_from


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    run = Run(METHODS["msa"].Config(), method="msa", micro_batch=64, shard=True, image_size=(32, 64))
    (tmp_path / "config.yaml").write_text(config.dump(run))
    assert run_from(tmp_path / "config.yaml") == run

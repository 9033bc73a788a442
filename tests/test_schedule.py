"""Schedules equal the reference's table."""

import json
from pathlib import Path

import pytest

from maskery.schedule import cosine, warmup_cosine

TABLE = json.loads((Path(__file__).parent / "fixtures" / "schedule_official.json").read_text())["schedule"]


@pytest.mark.parametrize(("epoch", "lr"), TABLE["epoch_lr"])
def test_the_references_learning_rates(epoch: float, lr: float) -> None:
    t, warmup = epoch / TABLE["epochs"], TABLE["warmup_epochs"] / TABLE["epochs"]
    assert warmup_cosine(TABLE["lr"], TABLE["min_lr"], warmup, t) == pytest.approx(lr, rel=1e-6, abs=1e-18)


def test_ends() -> None:
    assert cosine(0.996, 1.0, 0.0) == 0.996
    assert cosine(0.996, 1.0, 0.5) == pytest.approx(0.998)
    assert cosine(0.996, 1.0, 1.0) == 1.0
    assert warmup_cosine(1.0, 0.1, 0.0, 0.0) == 1.0  # no warm-up
    assert warmup_cosine(1.0, 0.1, 1.0, 0.5) == 0.5  # nothing but warm-up

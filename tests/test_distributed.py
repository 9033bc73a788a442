"""One process alone, and why several cannot begin. What two say to each other: test_shard.py."""

import pytest
import torch.distributed as td

from maskery.distributed import ALONE, world


def test_alone_everybody_is_this_process() -> None:
    assert ALONE.main
    assert ALONE.gather("word") == ["word"]
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.same(float("inf"))
    ALONE.wait()


def test_a_pytorch_without_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(td, "is_gloo_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no gloo: without it, one process alone \(2 were started\)"), world():
        pass

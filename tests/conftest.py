"""What all tests share: one thread, a cache of their own, a few images."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from maskery.demo import scenes

# The same examples on every run; `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 built-in scenes of 32 pixels: train/<class>/ and val/<class>/."""
    return scenes.write_folder(tmp_path_factory.mktemp("scenes") / "images", 120, size=32)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images beside the checkout; the test is skipped where there are none."""
    if not SHARED.is_dir():
        pytest.skip("no real images beside the checkout (../shared/data)")
    return SHARED

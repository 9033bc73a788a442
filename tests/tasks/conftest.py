"""What the tests of tasks share: images of two colours."""

from pathlib import Path

import pytest

from .images import two_colours


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training images of two plain colours, 20 held out."""
    return two_colours(tmp_path_factory.mktemp("colours") / "images", {"train": 20, "val": 10})

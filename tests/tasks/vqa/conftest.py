"""Questions about a few squares."""

from pathlib import Path

import pytest

from ..squares import write_squares


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Eight images, four held out, which a test may spoil."""
    return write_squares(tmp_path / "few", 8, 4)

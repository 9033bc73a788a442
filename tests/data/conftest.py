from pathlib import Path

import pytest

from maskery.demo.vqa import write_vqa


@pytest.fixture(autouse=True)
def scan_cache(tmp_path_factory, monkeypatch):
    """The cache of folder scans lies in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MASKERY_CACHE", str(folder))
    return folder


@pytest.fixture
def vqa(tmp_path: Path) -> Path:
    return write_vqa(tmp_path / "vqa", 10, size=32)

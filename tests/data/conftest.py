import pytest


@pytest.fixture(autouse=True)
def scan_cache(tmp_path_factory, monkeypatch):
    """The cache of folder scans lies in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MASKERY_CACHE", str(folder))
    return folder

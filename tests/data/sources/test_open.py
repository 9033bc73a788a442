import pytest

from maskery.config import ImagesConfig
from maskery.data.sources.open import open_source


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_source(tmp_path / "nothing")
    (tmp_path / "a.docx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.docx: not a folder.*\.txt, \.lst, \.csv, \.tsv, \.parquet"):
        open_source(tmp_path / "a.docx")
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is a folder of images: it has no column 'label'"):
        open_source(tmp_path, ImagesConfig(label_column="label"))


def test_relative_paths_and_progress(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    source = open_source("images")
    assert source.where == str(tmp_path / "images")
    monkeypatch.chdir("/")
    assert source.read(0) == b"x"

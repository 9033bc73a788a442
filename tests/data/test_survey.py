import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskery.cli import main
from maskery.config import ImagesConfig
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from maskery.data.survey import evenly, label_lines, mean_and_std, survey


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig" if array.ndim == 3 else None)
    else:
        Image.fromarray(array).save(path)


def noise(*shape: int, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.fixture
def mixed(tmp_path) -> Source:
    for i in range(3):
        save(tmp_path / f"rgb{i}.png", noise(20 + i, 30, 3, seed=i))
    save(tmp_path / "grey.jpg", noise(50, 70))
    save(tmp_path / "deep.png", noise(9, 8, dtype=np.uint16))
    whole = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-300])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    return open_source(tmp_path)


def test_what_is_there(mixed):
    told = []
    found = survey(mixed, progress=lambda done, total: told.append((done, total)))
    assert (found.images, found.sampled, found.pages) == (8, 8, 1)
    assert (found.heights, found.widths) == ((9, 21, 50), (8, 30, 70))
    assert (found.channels, found.bits, found.formats) == ({3: 3, 1: 2}, {8: 4, 16: 1}, {"PNG": 4, "JPEG": 1})
    assert (found.channels_suggested, found.bits_suggested) == (3, 16)
    assert [name for name, _ in found.unreadable] == ["cut.jpg", "empty.jpg", "gone.jpg"]
    assert found.unreadable[1:] == (("empty.jpg", "0 bytes"), ("gone.jpg", "No such file or directory"))
    assert "truncated JPEG" in found.unreadable[0][1]
    assert told == [(i, 8) for i in range(1, 9)]
    assert found == survey(mixed)


def test_lines(mixed):
    lines = survey(mixed).lines()
    assert lines[0] == "8 images"
    assert lines[1] == "sizes (least, median, greatest): height 9, 21, 50, width 8, 30, 70"
    assert lines[2] == "formats: PNG 4, JPEG 1; channels: 3 in 3, 1 in 2; bits: 8 in 4, 16 in 1"
    assert lines[3] == "3 of 8 cannot be read (37.5 %):"
    assert lines[5] == "  empty.jpg: 0 bytes"
    assert survey(mixed, sample=2).lines()[0] == "8 images, of which 2 were looked at"
    assert "\n" not in "".join(lines)


def test_many_unreadable_ones_are_counted_and_odd_names_can_be_printed(tmp_path):
    for i in range(8):
        with open(bytes(tmp_path) + b"/\xff%d.jpg" % i, "wb"):
            pass
    lines = survey(open_source(tmp_path)).lines()
    assert lines[1:3] == ["8 of 8 cannot be read (100.0 %):", "  \\xff0.jpg: 0 bytes"]
    assert lines[-1] == "  and 3 more"
    assert "\n".join(lines).encode()


@pytest.mark.parametrize(("bands", "suggested"), [(1, 1), (3, 3), (6, 6)])
def test_suggested_channels(tmp_path, bands, suggested):
    for i in range(3):
        save(tmp_path / f"{i}.tif", noise(8, 8, bands) if bands > 1 else noise(8, 8))
    assert survey(open_source(tmp_path)).channels_suggested == suggested


def test_one_file_of_bands_among_photographs_changes_nothing(tmp_path):
    save(tmp_path / "bands.tif", noise(8, 8, 6))
    for i in range(3):
        save(tmp_path / f"{i}.png", noise(8, 8, 3))
    assert survey(open_source(tmp_path)).channels_suggested == 3


def test_pages_as_channels(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", noise(5, 16, 16), photometric="minisblack")
    found = survey(open_source(tmp_path), pages="channels")
    assert (found.channels, found.pages) == ({5: 1}, 5)
    assert "files of up to 5 pages" in found.lines()
    mean, deviation = mean_and_std(open_source(tmp_path), [0], channels=5, bits=8, pages="channels")
    np.testing.assert_allclose(mean, noise(5, 16, 16).mean((1, 2)) / 255)
    assert len(deviation) == 5


def test_duplicates_and_leaks_are_found_whatever_the_sample(tmp_path):
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        save(tmp_path / name, noise(8, 8, 3, seed=1))
    save(tmp_path / "train/d.png", noise(8, 8, 3, seed=2))
    save(tmp_path / "train/e.png", noise(8, 8, 3, seed=2))
    save(tmp_path / "val/f.png", noise(8, 8, 3, seed=3))
    (tmp_path / "val/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "val/gone2.png").symlink_to(tmp_path / "nowhere")
    found = survey(open_source(tmp_path), sample=1, duplicates=True)
    assert found.duplicates == (("train/a.png", "train/b.png", "val/c.png"), ("train/d.png", "train/e.png"))
    assert found.leaks == found.duplicates[:1]
    lines = found.lines()
    assert "3 files the same as another one, byte for byte:" in lines
    assert any(line.startswith("WARNING: 1 image in more than one split") for line in lines)
    assert "  train/a.png = train/b.png = val/c.png" in lines


def test_no_duplicates(mixed):
    assert "no two files are the same byte for byte" in survey(mixed, duplicates=True).lines()
    assert survey(mixed).duplicates is None


def test_nothing_readable(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    source = open_source(tmp_path)
    found = survey(source)
    assert (found.heights, found.channels_suggested, found.bits_suggested) == ((0, 0, 0), 3, 8)
    assert found.lines() == ["1 image", "1 of 1 cannot be read (100.0 %):", "  a.jpg: 0 bytes"]
    with pytest.raises(ValueError, match=r"none of 1 images of .* can be read with 3 channels"):
        mean_and_std(source, [0], channels=3, bits=8)


@pytest.mark.parametrize(("dtype", "bits", "full"), [(np.uint8, 8, 255), (np.uint16, 16, 65535)])
def test_statistics_is_numpys_mean_and_deviation(tmp_path, dtype, bits, full):
    images = [noise(16, 16, 3, seed=i, dtype=dtype) // (i + 1) for i in range(5)]
    for i, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"{i}.tif", image, photometric="rgb")
    source = open_source(tmp_path)
    mean, deviation = mean_and_std(source, range(5), channels=3, bits=bits)
    np.testing.assert_allclose(mean, np.stack(images).mean((0, 1, 2)) / full)
    np.testing.assert_allclose(deviation, np.stack(images).std((0, 1, 2)) / full)
    some = mean_and_std(source, [1, 3], channels=3, bits=bits)[0]
    np.testing.assert_allclose(some, np.stack([images[1], images[3]]).mean((0, 1, 2)) / full)


def test_statistics_passes_over_what_cannot_be_read(mixed):
    mean, deviation = mean_and_std(mixed, np.arange(8), channels=3, bits=8)
    assert mean == pytest.approx((0.5, 0.5, 0.5), abs=0.03)
    assert all(0 < d < 1 for d in deviation)


def test_the_sample_is_spread_evenly():
    assert evenly(10, 5).tolist() == [0, 2, 4, 7, 9]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(3, None).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []
    assert len(set(evenly(1001, 1000).tolist())) == 1000


def labelled(tmp_path: Path, cells: list[str]) -> Path:
    for k in range(len(cells)):
        save(tmp_path / f"{k}.png", noise(8, 8, 3, seed=k))
    lines = [f"{k}.png,{cell}" for k, cell in enumerate(cells)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    return tmp_path / "list.csv"


def test_labels_are_counted(tmp_path, capsys):
    source = open_source(labelled(tmp_path, ["cat", "dog", "", "dog"]))
    assert label_lines(source) == ["  cat: 1", "  dog: 2"]
    assert main(["inspect", "--data", source.where]) == 0
    assert capsys.readouterr().out.endswith("\n  cat: 1\n  dog: 2\n")
    assert label_lines(open_source(source.where, ImagesConfig(labels=False))) == []


def test_several_labels_an_image_are_counted(tmp_path, capsys):
    file = labelled(tmp_path, ["cat|dog", "dog", "", "|", "ant|cat|dog", ""])
    want = ["3 labels, 1.50 an image on average; 2 images without annotation", "  ant: 1", "  cat: 2", "  dog: 3"]
    assert label_lines(open_source(file)) == want
    assert main(["inspect", "--data", str(file)]) == 0
    assert capsys.readouterr().out.endswith("\n" + "\n".join(want) + "\n")

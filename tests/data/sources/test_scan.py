import os
import time
from pathlib import Path

import pytest

from maskery.data.sources.names import hashes
from maskery.data.sources.scan import scan


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def age(root: Path) -> None:
    """Set the time of change of all folders an hour back: fresh ones are not cached."""
    then = time.time() - 3600
    for folder, _, _ in os.walk(root):
        os.utime(folder, (then, then))


def names(root: Path, cache: bool = False) -> list[str]:
    return list(scan(str(root), cache=cache).names)


def test_images_however_nested_sorted_by_their_bytes(tmp_path):
    touch(tmp_path, "b.PNG", "a/c/x.jpeg", "a/b.tif", "a-b/x.webp", "Z.gif", "é.bmp", "readme.txt", "x.json", "none")
    found = scan(str(tmp_path), cache=False)
    assert list(found.names) == ["Z.gif", "a-b/x.webp", "a/b.tif", "a/c/x.jpeg", "b.PNG", "é.bmp"]
    assert [found.folders[k] for k in found.folder] == [b"", b"a-b", b"a", b"a/c", b"", b""]
    assert found.others == {"txt": 1, "json": 1, "": 1}


def test_hidden_files_and_macosx_are_left_out(tmp_path):
    touch(tmp_path, "a.jpg", ".b.jpg", ".git/c.jpg", "__MACOSX/d.jpg", "e/._f.jpg", "e/g.jpg")
    assert names(tmp_path) == ["a.jpg", "e/g.jpg"]


def test_a_folder_named_like_an_image_and_a_broken_link(tmp_path):
    touch(tmp_path, "x.jpg/a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["b.jpg", "x.jpg/a.jpg"]


def test_links_to_folders_are_followed_once_and_never_in_a_circle(tmp_path):
    touch(tmp_path, "root/real/a.jpg", "elsewhere/b.jpg")
    root = tmp_path / "root"
    (root / "real" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "real")  # sorts before "real", which keeps its own path all the same
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "out2").symlink_to(tmp_path / "elsewhere")
    assert names(root) == ["out/b.jpg", "real/a.jpg"]


def test_names_that_are_no_utf8(tmp_path):
    (tmp_path / "d").mkdir()
    path = os.path.join(os.fsencode(tmp_path), b"d/\xff\xfe.jpg")
    with open(path, "wb") as file:
        file.write(b"here")
    found = scan(str(tmp_path), cache=False)
    assert list(found.names) == ["d/\udcff\udcfe.jpg"]
    age(tmp_path)
    scan(str(tmp_path), cache=True)
    assert list(scan(str(tmp_path), cache=True).names) == list(found.names)


def test_folders_that_cannot_be_listed_are_told(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    found = scan(str(tmp_path), cache=True)
    (tmp_path / "closed").chmod(0o700)
    assert list(found.names) == ["a.jpg"]
    assert len(found.problems) == 1


def test_an_unchanged_folder_is_not_listed_again(tmp_path, scan_cache):
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "notes.txt")
    age(tmp_path)
    first = scan(str(tmp_path), cache=True)
    # A file renamed behind the folder's time of change: only a second listing could see it.
    stamp = (tmp_path / "a").stat()
    (tmp_path / "a/1.jpg").rename(tmp_path / "a/0.jpg")
    os.utime(tmp_path / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = scan(str(tmp_path), cache=True)
    assert list(second.names) == list(first.names) == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert second.names.hashed is not None
    assert second.names.hashed.tolist() == hashes(first.names).tolist()
    assert (second.folders, second.folder.tolist(), second.others) == (
        first.folders,
        first.folder.tolist(),
        first.others,
    )
    assert names(tmp_path, cache=False)[0] == "a/0.jpg"


@pytest.mark.parametrize("change", ["add", "remove", "new folder"])
def test_a_change_in_any_folder_is_seen(tmp_path, change):
    touch(tmp_path, "a/b/1.jpg", "a/b/2.jpg", "c/3.jpg")
    age(tmp_path)
    names(tmp_path, cache=True)
    if change == "add":
        touch(tmp_path, "a/b/0.jpg")
    elif change == "remove":
        (tmp_path / "c/3.jpg").unlink()
    else:
        touch(tmp_path, "d/4.jpg")
    assert names(tmp_path, cache=True) == names(tmp_path, cache=False)


def test_a_folder_changed_a_moment_ago_is_not_cached(tmp_path, scan_cache):
    touch(tmp_path, "a.jpg")
    names(tmp_path, cache=True)
    assert not list(scan_cache.iterdir())
    age(tmp_path)
    names(tmp_path, cache=True)
    assert [file.suffix for file in scan_cache.iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", ["empty", "rubbish", "cut"])
def test_a_damaged_cache_is_made_again(tmp_path, scan_cache, damage):
    touch(tmp_path, "a.jpg", "b.jpg")
    age(tmp_path)
    want = names(tmp_path, cache=True)
    (file,) = scan_cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "rubbish": b"rubbish" * 99, "cut": whole[: len(whole) // 2]}[damage])
    assert names(tmp_path, cache=True) == want
    assert len(file.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    touch(tmp_path, "images/a.jpg", "file")
    age(tmp_path)
    monkeypatch.setenv("MASKERY_CACHE", str(tmp_path / "file"))
    assert names(tmp_path / "images", cache=True) == ["a.jpg"]


def test_where_the_cache_lies(tmp_path, monkeypatch):
    touch(tmp_path, "images/a.jpg")
    age(tmp_path)
    monkeypatch.delenv("MASKERY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names(tmp_path / "images", cache=True)
    assert list((tmp_path / "xdg/maskery").glob("scan-*.npz"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    names(tmp_path / "images", cache=True)
    assert list((tmp_path / "home/.cache/maskery").glob("scan-*.npz"))


def test_progress_ends_with_the_number_of_images(tmp_path):
    touch(tmp_path, "a.jpg", "b/c.jpg")
    heard = []
    scan(str(tmp_path), cache=False, progress=lambda *done: heard.append(done))
    assert heard[-1] == (2, 0)

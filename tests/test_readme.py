"""Every command of the README is run, in order, in one directory; long ones are shortened by options at their end."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from maskery.cli import main
from tests.pages import blocks, commands, run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, scene_folder: Path) -> Path:
    """A directory with what the README speaks of: photos/ and imagenet/train/."""
    here = tmp_path_factory.mktemp("readme")
    shutil.copytree(scene_folder, here / "photos")
    shutil.copytree(scene_folder / "train", here / "imagenet" / "train")
    return here


def test_every_shell_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    ran = 0
    for words in commands(TEXT):
        run(words)
        ran += 1
        if words[1] == "export":  # the Python that follows it in the text
            exec(next(b for b in blocks(TEXT, "python") if "timm" in b), {})
    assert ran >= 9
    assert (place / "features.parquet").exists()


def test_the_python(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {
        "images": torch.rand(2, 3, 32, 32),
        "files": sorted((place / "photos").rglob("*.png"))[:2],
    }
    exec(next(b for b in blocks(TEXT, "python") if "import maskery" in b), names)
    class_token, features = names["class_token"], names["features"]
    assert isinstance(features, torch.Tensor)
    assert features.shape == (2, 128)
    assert isinstance(class_token, torch.Tensor)
    assert class_token.shape == (2, 128)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/results/README.md"])
def test_links_lead_somewhere(file: str) -> None:
    text = (ROOT / file).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / file).parent.joinpath(target).exists(), target


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "3", "--images", "300"]) == 0
    said = capsys.readouterr().out
    assert "at random initialisation" in said
    wanted = {"images", "run", "timm", "embeddings.parquet"}
    assert {p.name for p in out.iterdir()} == wanted
    assert (out / "run" / "curves.png").stat().st_size > 10_000
    assert (out / "run" / "report.html").stat().st_size > 50_000
    assert f"report            {out / 'run' / 'report.html'}" in said
    assert main(["demo", "--out", str(out)]) == 1
    assert main(["demo", "--out", str(out), "--data", "/nowhere", "--overwrite"]) == 1
    assert (out / "run").exists()


def test_the_demo_on_ones_own_images(tmp_path: Path, scene_folder: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "2", "--data", str(scene_folder)]) == 0
    assert not (tmp_path / "demo" / "images").exists()

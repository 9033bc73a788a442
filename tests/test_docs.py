"""Pages of docs/: their code runs, in order, and prints what they say; their links and settings exist."""

import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.health.checks import CHECKS
from maskery.methods import METHODS
from maskery.suggest import suggest
from tests import pages, test_contract
from tests.pages import SHORT
from tests.weights.test_locate import with_timm

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONTRACT = [f for name, f in vars(test_contract).items() if name.startswith("test_")]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page whose fence says exactly `language`."""
    return pages.blocks((DOCS / page).read_text(), language)


def run(page: str) -> dict[str, Any]:
    """Execute the page's Python from top to bottom; returns the names it has defined."""
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


def words(lines: list[str]) -> list[str]:
    """Lines with every number replaced by #: rounding differs between machines."""
    return [re.sub(r"\d[\d.]*(e[+-]?\d+)?", "#", line) for line in lines]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of its own, for what pages write."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------------------------------------- the linear model
def test_the_linear_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "rc-mae-linear-model.md"
    run(page)
    printed, shown = capsys.readouterr().out.splitlines(), "".join(blocks(page, "text")).splitlines()
    assert len(shown) == 8
    assert words(printed) == words(shown)
    ours = np.asarray(Image.open(place / "rc-mae-linear-model.png").convert("L"), dtype=float)
    committed = np.asarray(Image.open(DOCS / "pictures" / "rc-mae-linear-model.png").convert("L"), dtype=float)
    assert ours.shape == committed.shape
    assert np.abs(ours - committed).mean() < 4  # of 255: fonts may differ, curves may not
    assert ours.std() > 20


# -------------------------------------------------------------------------------------------- adding a method
@pytest.fixture
def simmim(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """simmim.py as the page has it, where Python finds it; METHODS is as before afterwards."""
    (place / "simmim.py").write_text("\n".join(blocks("adding-a-method.md", "python simmim.py")))
    monkeypatch.syspath_prepend(place)
    yield place
    METHODS.pop("simmim", None)
    sys.modules.pop("simmim", None)


def test_adding_a_method(simmim: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, page = list(METHODS), "adding-a-method.md"
    names = run(page)
    assert [*before, "simmim"] == list(METHODS)
    said = capsys.readouterr().out.splitlines()
    shown = blocks(page, "text")[0].splitlines()
    assert words([line for line in said if line.startswith("step ")]) == words(shown)

    losses = [look["held_out_loss"] for look in names["result"].looks]
    assert 0.9 * losses[0] > losses[1] > losses[2]
    pictures = sorted((simmim / "run" / "samples").iterdir())
    assert [p.name for p in pictures] == [f"step-{s:08d}.png" for s in (0, 20, 40)]
    assert pictures[0].read_bytes() != pictures[2].read_bytes()
    class_token, patches = maskery.load(simmim / "run")(torch.rand(1, 3, 32, 32))
    assert (class_token.shape, patches.shape) == ((1, 128), (1, 16, 128))

    assert len(CONTRACT) >= 5
    for check in CONTRACT:
        assert list(inspect.signature(check).parameters) == ["name"]
        check("simmim")

    capsys.readouterr()
    assert main(["list", "methods"]) == 0
    assert "simmim       SimMIM: masked image modelling" in capsys.readouterr().out
    wrong = ["pretrain", "--data", "images", "--out", "other", "--method", "simmim", "--settings.mask-ratio", "1"]
    assert main(wrong) == 1
    assert "mask ratio 1 leaves 0 of" in capsys.readouterr().err


def test_the_added_method_by_hand(simmim: Path) -> None:
    """Hidden pixels reach no prediction, and only hidden patches have a loss: L1 of raw normalised pixels."""
    exec(blocks("adding-a-method.md", "python")[0], {})  # adds the line to METHODS
    method = test_contract.built("simmim")
    torch.manual_seed(0)
    batch = method.sample({"image": torch.rand(2, 3, 32, 32)}, 0.0)
    m, image = batch["mask"].hidden, batch["image"]
    assert m.sum(1).tolist() == [10, 10]  # of 16, at 0.6
    x = (image - method.encoder.mean) / method.encoder.std
    x_hat, total = method.predict(x, batch["mask"]), 0.0
    for b, n in m.nonzero().tolist():
        row, column = divmod(n, 4)
        patch = x[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        total += float((x_hat[b, n].view(8, 8, 3).permute(2, 0, 1) - patch).abs().mean().detach()) / 20
    assert float(method(batch, 0.0)["loss"].detach()) == pytest.approx(total, rel=1e-5)
    grid = m.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(method.predict(x + grid, batch["mask"]), x_hat)
    assert not torch.equal(method.predict(x + 1 - grid, batch["mask"]), x_hat)


# ------------------------------------------------------------------------------------------- taking it along
def test_the_commands_of_the_page_on_exports(
    place: Path, scene_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("transformers", "onnxruntime", "onnxscript", "wandb", "mlflow"):
        pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (place / "photos").symlink_to(scene_folder)
    short = [*SHORT, "--watch.looks", "0", "--steps", "2"]
    assert main(["pretrain", "--data", "photos", "--out", "run", *short]) == 0
    commands = "".join(blocks("export.md", "sh")).splitlines()
    assert len(commands) == 10
    tuned = ["--steps", "2", "--batch-size", "8", "--watch.looks", "1"]
    for command in commands:
        words = command.split()[1:]
        assert main(words + {"pretrain": short, "eval": tuned}.get(words[0], [])) == 0, command
    assert capsys.readouterr().out.count(": done; ") == 6
    assert len((place / "labels.csv").read_text().splitlines()) == 121
    assert (place / "for-onnx" / "model.onnx").exists()
    assert list((place / "run-wandb" / "wandb").glob("offline-run-*"))
    assert (place / "mlruns").is_dir()
    names: dict[str, Any] = {"files": sorted(scene_folder.rglob("*.png"))[:3]}
    classify, features = blocks("export.md", "python")
    exec(classify, names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [str(file) for file in names["files"]]
    exec(features, names)
    assert names["features"].shape == (3, 128)
    assert names["both"].shape == (3, 256)


# ---------------------------------------------------------------------------------- pages that lead through the house
@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, scene_folder: Path) -> Path:
    """What the pages speak of: images under several names, a list of them, a finished run, an official checkpoint."""
    here = tmp_path_factory.mktemp("pages")
    for name in ("photos", "xrays", "imagenet/train"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).symlink_to(scene_folder)
    files = sorted(scene_folder.rglob("*.png"))
    lines = ["path,species", *(f"{file},{file.parent.name}" for file in files)]
    (here / "photos.csv").write_text("\n".join(lines))
    tiny = with_timm(embed_dim=192, depth=12, num_heads=3).state_dict()
    for name in ("mae_pretrain_vit_base.pth", "mae_visualize_vit_base.pth"):
        torch.save({"model": tiny}, here / name)
    command = ["pretrain", "--data", str(here / "photos"), "--out", str(here / "run"), *SHORT, "--steps", "2"]
    assert main(command) == 0
    return here


@pytest.mark.parametrize(
    "page",
    ["start.md", "your-data.md", "choosing-a-method.md", "recipes.md", "questions.md", "python.md", "packing.md"],
)
def test_every_command_and_all_python(page: str, house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for thing in house.iterdir():
        shutil.copytree(thing, thing.name) if thing.name == "run" else Path(thing.name).symlink_to(thing)
    text, ran = (DOCS / page).read_text(), 0
    for command in pages.commands(text):
        pages.run(command)
        ran += 1
    names: dict[str, Any] = {"files": sorted(Path("photos").rglob("*.png"))[:3]}
    if page == "python.md":
        shutil.rmtree("run")  # it trains its own
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), names)
    if page == "start.md":
        shown = blocks(page, "text")[0].rpartition("  ")[0]
        assert any(words([shown])[0] in line for line in words(Path("run/train.log").read_text().splitlines()))
    assert ran or "maskery" in names


@pytest.mark.parametrize(
    "page", ["many-gpus.md", "weights.md", "results/README.md", "results/compare.md", "results/probing.md"]
)
def test_every_command_is_understood(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pages.commands((DOCS / page).read_text())
    assert found
    for words in found:
        pages.understood(words, capsys)
    with pytest.raises(AssertionError, match="no-such-option"):
        pages.understood([*found[0], "--no-such-option", "1"], capsys)


def test_the_table_of_sizes_is_what_is_chosen() -> None:
    rows = re.findall(r"^\| ([\d,]+) \| (.*) \|$", (DOCS / "recipes.md").read_text(), re.MULTILINE)
    assert len(rows) == 8
    for images, cells in rows:
        n = int(images.replace(",", ""))
        run = suggest(n, (256, 256), "cuda").run
        said = (run.model, run.patch_size, run.batch_size, f"{run.epochs:g}", f"{run.total_steps(n):,}")
        assert cells == " | ".join(map(str, (*said, f"{run.optim.base_lr:g}")))


# ------------------------------------------------------------------------------------------------- every page
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("http") or page.parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_has_its_settings_and_no_other(name: str) -> None:
    text = (DOCS / "methods" / f"{name}.md").read_text()
    known = {f.name.replace("_", "-") for f in fields(METHODS[name].Config)}
    named = set(re.findall(r"--settings\.(?:no-)?([a-z0-9-]+)", text))
    assert named == known


def test_the_commands_of_rc_maes_page(place: Path, scene_folder: Path) -> None:
    (place / "photos").symlink_to(scene_folder)
    commands = "".join(blocks("methods/rc-mae.md", "sh")).splitlines()
    assert len(commands) == 5
    for command in commands:
        verb, *options = command.partition("#")[0].split()[1:]
        assert verb == "pretrain"
        assert main([verb, *options, *SHORT, "--watch.looks", "0", "--steps", "2"]) == 0, command
    log = (place / "from-mae" / "train.log").read_text()
    assert "started from mae: " in log


# ---------------------------------------------------------------------------------------------- report and health
def test_the_commands_and_the_python_of_report_and_health(
    place: Path, scene_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "photos").symlink_to(scene_folder)
    commands = [line.partition("#")[0].split()[1:] for line in blocks("health.md", "sh")[0].splitlines()]
    assert main([*commands[0], *SHORT, "--steps", "4"]) == 0
    assert main(commands[1]) == 0
    capsys.readouterr()
    run("health.md")
    assert "expected loss: Held-out loss" in capsys.readouterr().out
    commands = [line.partition("#")[0].split()[1:] for line in blocks("reading-the-report.md", "sh")[0].splitlines()]
    assert len(commands) == 3
    for command in commands:
        assert main(command) == 0
    assert (place / "run.html").stat().st_size < (place / "run" / "report.html").stat().st_size
    assert run("reading-the-report.md")["page"] == Path("run/report.html")


def test_the_page_on_health_names_every_verdict() -> None:
    text = (DOCS / "health.md").read_text()
    said = [set(re.findall(r'Verdict\(\s*"([a-z ]+)"', inspect.getsource(check))) for check in CHECKS]
    assert all(said), "every check names its verdicts"
    table = text.partition("| verdict |")[2].partition("\n\n")[0].splitlines()[2:]
    assert {name for row in table for name in row.split("|")[1].strip().split(", ")} == set().union(*said)

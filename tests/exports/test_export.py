"""Directories whole or not at all, whichever kind; nothing foreign is replaced; bad input is one line."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import maskery
from maskery.cli import MISUSED, main
from maskery.exports import export, plain_file
from maskery.exports.export import KINDS, export_to, whole
from maskery.exports.source import Source
from tests.exports.conftest import RECTANGLE, SQUARE, network


def broken() -> Source:
    """Equal to nothing: a block that no library can know."""
    source = Source(network(SQUARE), "broken")
    source.encoder.blocks[0].register_forward_hook(lambda module, args, out: out * 1.01)
    return source


@pytest.mark.parametrize("kind", ["timm", "hf", "safetensors"])
def test_what_is_not_equal_is_not_there(tmp_path: Path, kind: export.Kind) -> None:
    with pytest.raises(ValueError, match="differ by"):
        export_to(kind, broken(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_to("safetensors", Source(network(SQUARE)), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert before.keys() == {"config.json", "model.safetensors", "README.md"}
    with pytest.raises(ValueError, match="differ by"):
        export_to("timm", broken(), out, overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    export_to("safetensors", Source(network(RECTANGLE)), out, overwrite=True)
    assert maskery.load(out).config == RECTANGLE


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole(tmp_path / "out") as half:
            (half / "part").write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_nothing_foreign_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("ten years")
    (tmp_path / "file").write_text("mine")
    where = ["export", "random:vit_tiny_patch16_224", "--overwrite", "--out"]
    assert main([*where, str(tmp_path / "thesis")]) == 1
    assert "holds something else than an exported model" in capsys.readouterr().err
    assert main([*where, str(tmp_path / "file")]) == 1
    assert "is no directory" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "--to", "tensorflow", "--out", str(tmp_path / "o")]) == MISUSED
    said = capsys.readouterr().err
    assert all(kind in said for kind in KINDS)
    assert main(["export", "run", "--public", "--out", str(tmp_path / "o")]) == MISUSED
    assert "--public is for --push" in capsys.readouterr().err


class Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_one_line_and_runs_nothing(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"model": Bomb(touched)}))
    torch.save({"model": Bomb(touched)}, tmp_path / "bomb.pt")
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.safetensors")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{")
    for name in ("bomb.pth", "bomb.pt", "text.safetensors", "resnet.safetensors", "half", "nothing"):
        assert main(["export", str(tmp_path / name), "--to", kind, "--out", str(tmp_path / "out")]) == 1, name
        said = capsys.readouterr().err
        assert said.startswith("maskery: ")
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert not touched.exists()


def test_a_tensor_that_is_not_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: object) -> None:
        file = args[1]
        assert isinstance(file, Path)
        save_file({name: t * 2 for name, t in network(SQUARE).state_dict().items()}, file)

    monkeypatch.setattr(plain_file, "save", lost)  # as a disk that lies
    with pytest.raises(ValueError, match="was not read back as it was written"):
        export_to("safetensors", Source(network(SQUARE)), tmp_path / "out")
    assert not list(tmp_path.iterdir())

"""Directories whole or not at all, whichever kind; nothing foreign is replaced; bad input is one line."""

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import maskery
from maskery.cli import MISUSED, main
from maskery.exporters import export, plain_file
from maskery.exporters.export import WRITERS, export_to
from maskery.exporters.model import ExportModel
from maskery.runs.directory import CHOSEN_HEAD
from tests.classified import exported
from tests.exporters.conftest import RECTANGLE, SQUARE, network
from tests.tasks.runs import done


def broken() -> ExportModel:
    """Equal to nothing: a block that no library can know."""
    source = ExportModel(network(SQUARE), "broken")
    source.encoder.blocks[0].register_forward_hook(lambda module, args, out: out * 1.01)
    return source


@pytest.mark.parametrize("kind", ["timm", "hf", "safetensors"])
def test_what_is_not_equal_is_not_there(tmp_path: Path, kind: export.Kind) -> None:
    with pytest.raises(ValueError, match="differ by"):
        export_to(kind, broken(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_to("safetensors", ExportModel(network(SQUARE)), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert before.keys() == {"config.json", "model.safetensors", "README.md"}
    with pytest.raises(ValueError, match="differ by"):
        export_to("timm", broken(), out, overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    export_to("safetensors", ExportModel(network(RECTANGLE)), out, overwrite=True)
    assert maskery.load(out).config == RECTANGLE


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
    assert all(kind in said for kind in WRITERS)
    assert main(["export", "run", "--public", "--out", str(tmp_path / "o")]) == MISUSED
    assert "--public is for --push" in capsys.readouterr().err


class Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", WRITERS)
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
        folder = args[1]
        assert isinstance(folder, Path)
        save_file({name: t * 2 for name, t in network(SQUARE).state_dict().items()}, folder / "model.safetensors")

    monkeypatch.setattr(plain_file, "save_tensors", lost)  # as a disk that lies
    with pytest.raises(ValueError, match="was not read back as it was written"):
        export_to("safetensors", ExportModel(network(SQUARE)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------- classifiers
def another() -> ExportModel:
    """A classifier whose answers are not those of its network: one bias is another one."""
    given = exported("probe")
    assert given.network is not None
    with torch.no_grad():
        given.network.head.bias[1] += 0.01
    return given


@pytest.mark.parametrize("kind", ["timm", "hf", "onnx", "safetensors"])
def test_a_classifier_that_answers_otherwise_is_not_there(tmp_path: Path, kind: export.Kind) -> None:
    for module in {"onnx": ["onnxruntime", "onnxscript"], "hf": ["transformers"]}.get(kind, []):
        pytest.importorskip(module)
    with pytest.raises(ValueError, match=r"logits.* differ by"):
        export_to(kind, another(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"pooling": "attentive"}, "an attentive probe pools all tokens"), ({"blocks": 2}, "a probe of 2 blocks")],
)
def test_probes_that_are_no_linear_classifier_of_one_vector(
    settings: dict[str, Any], words: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    done("probe", photos, run, steps=1, watch={"looks": 0}, settings=settings)
    (run / "evals").mkdir()
    (run / "evals" / CHOSEN_HEAD).write_text('{"head": 0}')
    capsys.readouterr()
    for kind in WRITERS:
        assert main(["export", str(run), "--to", kind, "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert "maskery.classifier uses it" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert maskery.classifier(run).predict(torch.rand(3, 32, 32))[0].label in ("blue", "red")


def test_the_encoder_alone_is_asked_for(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"{tuned}#encoder", "--to", "safetensors", "--out", str(tmp_path / "encoder")]) == 0
    assert "classifier" not in capsys.readouterr().out
    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    assert tensors.keys() == maskery.load(tuned).state_dict().keys()
    best = load_file(tuned / "checkpoints" / "best" / "model.safetensors")
    assert torch.equal(tensors["norm.weight"], best["encoder.norm.weight"])  # not the classifier's
    assert main(["export", str(tuned), "--out", str(tmp_path / "whole")]) == 0
    assert f"A classifier of 2 classes; {tuned}#encoder is its encoder alone" in capsys.readouterr().out
    assert torch.equal(load_file(tmp_path / "whole" / "model.safetensors")["fc_norm.weight"], best["norm.weight"])


def test_bad_classifiers_are_one_line(
    tuned: Path, probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished, segment = tmp_path / "unfinished", tmp_path / "segment"
    for run, other in ((tuned, unfinished), (probed, tmp_path / "no head")):
        shutil.copytree(run, other)
        shutil.rmtree(other / "evals")
    shutil.copytree(tuned, segment)
    text = (segment / "config.yaml").read_text().replace("method: finetune", "method: segment")
    (segment / "config.yaml").write_text(re.sub(r"settings:\n(?:  .*\n)+", "", text))
    step = (tmp_path / "no head" / "checkpoints" / "last").read_text().strip()
    for where, words in {
        unfinished: "not finished: the command of `maskery eval finetune` that began it goes on",
        tmp_path / "no head" / "checkpoints" / step: "not finished: the command of `maskery eval probe`",
        segment: f"of a run of segment only the encoder can be exported: {segment}#encoder",
        f"{tuned}#size=64x64": "behind the # of a classifier stands encoder, for its encoder alone, or nothing",
        f"{tuned}#head": "it has no network 'head'",
    }.items():
        assert main(["export", str(where), "--out", str(tmp_path / "out")]) == 1, where
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    step = (unfinished / "checkpoints" / "last").read_text().strip()
    assert main(["export", str(unfinished / "checkpoints" / step), "--out", str(tmp_path / "out")]) == 0

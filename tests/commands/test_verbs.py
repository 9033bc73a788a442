"""The other verbs, from the command line, reading the files they write."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate

import maskery
from maskery.cli import EVALUATIONS, MISUSED, VERBS, main
from maskery.weights.load import load_encoder
from tests.test_train import TINY


@pytest.fixture(scope="module")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verbs") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=6, **TINY)
    return out


def test_before_and_after_stand_side_by_side(run: Path) -> None:
    facts = json.loads((run / "evals" / "before-after.json").read_text())
    assert facts["step"] == 6
    for name in ("held_out_loss", "knn_mean_patch", "knn_class_token"):
        assert facts[name].keys() == {"before", "after"}
    assert facts["held_out_loss"]["after"] < facts["held_out_loss"]["before"]


def test_embed(run: Path, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "features.parquet"
    args = ["embed", str(run), "--data", str(scene_folder), "--out", str(out)]
    assert main(args) == 0
    table = pq.read_table(out).to_pylist()
    assert len(table) == 120
    assert table[0].keys() == {"name", "embedding", "label"}
    assert table[0]["name"].split("/")[1] == table[0]["label"]
    row = next(r for r in table if r["name"].startswith("val/"))
    from PIL import Image

    image = np.asarray(Image.open(scene_folder / row["name"]))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    expected = maskery.load(run)(pixels)[1].mean(1)[0]
    torch.testing.assert_close(torch.tensor(row["embedding"]), expected, rtol=1e-4, atol=1e-4)
    assert main(args) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*args, "--overwrite", "--tokens", "class_token"]) == 0


def test_export_opens_in_timm_with_its_own_preprocessing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "timm"
    assert main(["export", str(run), "--to", "timm", "--out", str(out)]) == 0
    assert "done; timm's features are ours to" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    data = timm.data.resolve_data_config({}, model=model)
    assert data["input_size"] == (3, 32, 32)
    encoder = load_encoder(out)
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(data[k]).view(-1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model((images - mean) / std), encoder(images)[0], rtol=1e-5, atol=1e-5)
    classifier = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=7)  # what people do next
    assert classifier(images).shape == (2, 7)
    assert main(["export", str(run), "--out", str(out)]) == 1
    assert main(["export", str(run), "--out", str(out), "--overwrite"]) == 0


def test_export_strips_everything_but_the_encoder(run: Path, tmp_path: Path) -> None:
    maskery.export(run, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_encoder(run).state_dict().keys()


def test_load(run: Path) -> None:
    encoder = maskery.load(run)
    assert not encoder.training
    images = torch.rand(1, 3, 32, 32)
    class_token, patches = encoder(images)
    assert class_token.shape == (1, 128)
    assert patches.shape == (1, 16, 128)
    larger = encoder(interpolate(images, (64, 48)))[1]
    assert larger.shape == (1, 48, 128)
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    assert torch.equal(maskery.load(checkpoint)(images)[0], class_token)


@pytest.mark.parametrize(("where", "words"), [("nowhere", "there is nothing"), ("", "neither a run")])
def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, words: str) -> None:
    assert main(["export", str(tmp_path / where), "--out", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err
    assert words in error or "config.yaml: no such file" in error


def test_inspect(scene_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--data", str(scene_folder)]) == 0
    said = capsys.readouterr().out
    assert "120 images" in said
    assert "checked-rings: 12" in said
    assert main(["inspect", "--data", str(scene_folder), "--images.no-labels"]) == 0
    assert "checked-rings" not in capsys.readouterr().out


@pytest.mark.parametrize("what", ["methods", "models", "recipes"])
def test_list(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    expected = {"methods": "mae", "models": "vit-base", "recipes": "mae-large"}[what]
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("verb", [*([v] for v in VERBS), ["eval", "knn"]])
def test_every_verb_has_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main([*verb, "--help"])
    assert e.value.code == 0
    assert f"usage: maskery {' '.join(verb)}" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian"]) == MISUSED
    assert "did you mean pretrain?" in capsys.readouterr().err
    assert main(["eval", "kn"]) == MISUSED
    assert "did you mean knn?" in capsys.readouterr().err
    assert main(["list", "colours"]) == MISUSED
    assert main([]) == MISUSED
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"maskery {verb}" in usage for verb in [*VERBS, *(f"eval {name}" for name in EVALUATIONS)])


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such run"):
        main(["resume", str(tmp_path / "no"), "--debug"])

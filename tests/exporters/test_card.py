"""The model card: what it says is what the run's files say, its code runs, and nothing breaks out of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import maskery
from maskery.exporters.card import card, code
from maskery.exporters.export import WRITERS, Kind, escaped
from maskery.exporters.model import ExportModel, ExportResult, open_model
from tests.classified import by_hand, exported
from tests.exporters.conftest import RECTANGLE, SQUARE, network

DONE = ExportResult("timm", 1e-7, "features are ours", "pass", "timm")


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("kind", WRITERS)
def test_its_code_runs_and_gives_our_features(
    kind: Kind, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the card itself; the directory's name is one that has to be escaped."""
    for module in {"onnx": ["onnxruntime", "onnxscript"], "hf": ["transformers"], "hf-mae": ["transformers"]}.get(
        kind, []
    ):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    out = Path('my "best" vit')
    maskery.export(run, out, kind)
    text = (out / "README.md").read_text()
    lines = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(lines) == 1
    assert (
        2 <= len([line for line in lines[0].splitlines() if line and not line.startswith(("import", "from"))]) + 1 <= 4
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    images = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    names: dict[str, Any] = {"image": image, "images": images.numpy()}
    with torch.no_grad():
        exec(lines[0], names)
        class_token, patches = maskery.load(run)(images)
    if kind == "hf-mae":
        assert float(names["loss"]) > 0
        return
    if kind == "onnx":
        found, expected = torch.from_numpy(names["patch_tokens"]), patches
        assert {p.name for p in out.iterdir()} == {"model.onnx", "README.md"}
    else:
        found, expected = names["features"], class_token if kind == "timm" else patches.mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_says_what_the_run_says(run: Path, scene_folder: Path) -> None:
    text = card(open_model(run), DONE)
    assert front(text) == {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["vision-transformer", "maskery", "masked-autoencoder", "mae"],
    }
    assert f"# MAE on `{scene_folder.name}`" in text
    assert str(scene_folder.parent) not in text  # whose machine it was is nobody's business
    assert f"`{scene_folder.name}`: 100 images for training, read as 3 channels, 8 bits" in text
    assert "He et al., CVPR 2022, arXiv 2111.06377" in text
    assert "mask\\_ratio" not in text
    assert "mask_ratio 0.75; norm_pix True; decoder dim 32" in text
    assert "| steps | 6, 0.96 epochs |" in text
    assert "| batch | 16; lr 0.001875 (base 0.03 x batch / 256)" in text
    look = json.loads((run / "evals" / "before-after.json").read_text())["held_out_loss"]
    assert f"| held out loss | {look['before']:.4g} | {look['after']:.4g} |" in text
    knn = json.loads(next((run / "evals").glob("knn-*.json")).read_text())
    assert f"knn\\_class\\_token {knn['numbers']['knn_class_token']:.4g}" in text
    assert knn["protocol"] in text
    assert "None has been chosen" in text


def test_it_is_honest_about_what_is_missing(run: Path, tmp_path: Path) -> None:
    """A run without numbers, and one whose files were cut off."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copytree(run / "checkpoints", bare / "checkpoints")
    shutil.copy(run / "config.yaml", bare)
    text = card(open_model(bare), DONE)
    assert "No numbers of this run are recorded" in text
    assert "It was not evaluated" in text
    assert "| device | not recorded |" in text
    assert "| time | not recorded |" in text
    assert "| steps | 6 |" in text

    for name in ("metrics.jsonl", "environment.json", "evals"):
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, bare / name)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (bare / "metrics.jsonl").write_text("".join([lines[0], "{{{\n", *lines[1:], '{"step": 7, "lo']))
    (bare / "environment.json").write_text('{"device": ')
    next((bare / "evals").glob("knn-*.json")).write_text("[]")
    text = card(open_model(bare), DONE)
    assert "held out loss" in text
    assert "Could not be read, and is missing here: `environment.json`, `a line of metrics.jsonl`, `evals/knn-" in text
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(ValueError, match="neither a run, nor a checkpoint"):
        open_model(bare)


def test_a_checkpoint_of_a_run_has_the_runs_card(run: Path) -> None:
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    assert card(open_model(checkpoint), DONE) == card(open_model(run), DONE)


def test_weights_from_elsewhere_have_a_short_one() -> None:
    text = card(ExportModel(network(RECTANGLE), "/home/me/odd\n# name`.pth"), DONE)
    assert "`odd?# name?.pth`, which is no run of Maskery" in text
    assert "/home/me" not in text
    assert "2 channels of 24 x 40 pixels" in text
    assert "## Training" not in text
    assert card(ExportModel(network(SQUARE)), DONE)


def test_names_do_not_break_out() -> None:
    assert code("a|b`c\nd") == "`a\\|b?c?d`"
    assert eval(f'"{escaped(Path("a" + chr(92) + chr(34) + "b" + chr(10)))}"') == 'a\\"b\n'
    text = card(ExportModel(network(SQUARE), "x---\nlicense: mit\n---"), DONE)
    assert "license" not in front(text)
    assert card(ExportModel(network(SQUARE), "caf\udce9.pth"), DONE).encode()


# --------------------------------------------------------------------------------------------------- classifiers
@pytest.mark.parametrize(
    ("kind", "who"),
    [("timm", "tuned"), ("timm", "probed"), ("hf", "probed"), ("onnx", "probed"), ("safetensors", "tuned")],
)
def test_the_code_of_a_classifiers_card_runs(
    kind: Kind, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for module in {"onnx": ["onnxruntime", "onnxscript"], "hf": ["transformers"]}.get(kind, []):
        pytest.importorskip(module)
    run: Path = request.getfixturevalue(who)
    monkeypatch.chdir(tmp_path)
    maskery.export(run, Path('my "best" vit'), kind)
    lines = re.findall(r"```python\n(.*?)```", Path('my "best" vit/README.md').read_text(), re.DOTALL)
    assert len(lines) == 1
    assert len(lines[0].strip().splitlines()) <= 5
    image = Image.fromarray(np.full((37, 37, 3), 90, np.uint8))  # of which every cut is the same
    images = np.full((1, 3, 32, 32), 90 / 255, np.float32)
    names: dict[str, Any] = {"image": image, "images": images}
    with torch.no_grad():
        exec(lines[0], names)
    wanted = by_hand(run, torch.from_numpy(images)).softmax(1)
    if kind == "safetensors":
        found = torch.tensor([[names["predictions"][0].probabilities[name] for name in ("blue", "red")]])
    else:
        found = torch.as_tensor(names["probabilities"])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_classifiers_card_says_what_it_is(tuned: Path) -> None:
    text = card(open_model(tuned), DONE)
    assert front(text)["pipeline_tag"] == "image-classification"
    assert front(text)["tags"] == ["vision-transformer", "maskery", "image-classification", "finetune"]
    assert "# A classifier of 2 classes: `photos`" in text
    assert "0 `blue`, 1 `red`. An image has one of them" in text
    assert "logits of 2 classes, of the norm of the mean patch token" in text
    assert "resized to cover 37 x 37 pixels" in text
    assert "`photos`: 16 images for training" in text
    assert "Fine-tuning for classification (He et al. 2022" in text
    assert "the best by top1 |" in text
    result = json.loads((tuned / "evals" / "result.json").read_text())
    assert f"top1 {result['numbers']['top1']:.4g}" in text
    assert "(9 held-out images)" in text
    assert "measured on the centre crop" in text
    look = json.loads((tuned / "evals" / "before-after.json").read_text())["top1"]
    assert f"| top1 | {look['before']:.4g} | {look['after']:.4g} |" in text
    assert "under the same masks" not in text
    assert "labels several False" in text
    assert "labels classes" not in text  # they are in a place of their own
    assert "Could not be read" not in text
    assert "It knows these classes only" in text
    alone = card(open_model(Path(f"{tuned}#encoder")), DONE)
    assert "it has no classifier" in alone
    assert "Could not be read" not in alone
    last = tuned / "checkpoints" / (tuned / "checkpoints" / "last").read_text().strip()
    assert "the best by" not in card(open_model(last), DONE)


def test_names_of_classes_do_not_break_out() -> None:
    text = card(exported("finetune", several=True), DONE)
    assert '0 `"the" moon`, 1 `ring\\|?x?`, 2 `star`. An image may have several of them, or none' in text
    assert "A classifier of 3 classes: `a classifier`" in text
    assert '["' not in text

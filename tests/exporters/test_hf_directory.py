"""Hugging Face -> Maskery -> Hugging Face: features, masked loss, images; and what cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskery
from maskery.cli import main
from maskery.exporters.export import export_to
from maskery.exporters.model import ExportModel
from maskery.inference.preprocess import Preprocessing
from maskery.weights.load import load_encoder
from tests.classified import NAMES, by_hand, exported
from tests.exporters.conftest import SQUARE, network

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 768}
SMALL |= {"image_size": 32, "patch_size": 8}


def noisy(model: Any) -> Any:
    torch.manual_seed(4)
    for name, p in model.eval().requires_grad_(False).named_parameters():
        if "pos" not in name:
            p.normal_(std=0.1)
    return model


def processed(folder: Path, image: Any, **options: Any) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__.startswith("ViTImageProcessor")
    return processor(image, return_tensors="pt", **options)["pixel_values"]


def test_equal_and_back(source: ExportModel, tmp_path: Path) -> None:
    assert export_to("hf", source, tmp_path / "out").difference < 1e-5
    assert load_encoder(tmp_path / "out").config == source.encoder.config


def test_the_eps_of_the_norms_goes_along(tmp_path: Path) -> None:
    source = ExportModel(network(SQUARE, eps=0.1))
    assert export_to("hf", source, tmp_path / "out").difference < 1e-5
    assert load_encoder(tmp_path / "out").blocks[0].norm1.eps == 0.1
    assert export_to("safetensors", source, tmp_path / "plain").difference == 0
    with pytest.raises(ValueError, match="timm's features differ by"):  # which has no place for it
        export_to("timm", source, tmp_path / "timm")


def test_there_and_back_through_maskery(tmp_path: Path) -> None:
    theirs = noisy(transformers.ViTModel(transformers.ViTConfig(**SMALL, layer_norm_eps=1e-2), add_pooling_layer=False))
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(
        tmp_path / "theirs"
    )
    maskery.export(tmp_path / "theirs", tmp_path / "ours", "hf")
    again = transformers.AutoModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x).last_hidden_state, theirs(x).last_hidden_state)
    said = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    assert said["image_mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert said["image_std"] == pytest.approx([0.4, 0.5, 0.6])
    assert again.config.image_size == 32


def test_mae_there_and_back_through_maskery(tmp_path: Path) -> None:
    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    more = {"decoder_intermediate_size": 128, "layer_norm_eps": 1e-6, "mask_ratio": 0.6, "norm_pix_loss": True}
    theirs = noisy(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **sizes, **more)))
    theirs.save_pretrained(tmp_path / "theirs")
    maskery.export(tmp_path / "theirs", tmp_path / "ours", "hf-mae")
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "ours").eval()
    x, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        one, other = again(x, noise=noise), theirs(x, noise=noise)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.loss, other.loss)
    assert {name: getattr(again.config, name) for name in (sizes | more)} == sizes | more


@pytest.mark.parametrize("ratio", [0.75, 0.8])
def test_a_run_with_its_decoder(scene_folder: Path, tmp_path: Path, ratio: float) -> None:
    from tests.test_train import TINY

    more = {"mask_ratio": ratio, "norm_pix": False, "decoder": TINY["settings"]["decoder"]}
    few = TINY | {"settings": more, "watch": {"looks": 0}, "image_size": 40}  # 25 patches: 25 (1 - 0.8) = 4.99...
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=2, **few)
    maskery.export(tmp_path / "run", tmp_path / "out", "hf-mae")
    model = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out").eval()
    assert not model.config.norm_pix_loss
    assert int(model(torch.randn(1, 3, 40, 40)).mask.sum()) == {0.75: 19, 0.8: 20}[ratio]


def test_rc_mae_gives_its_teacher_or_its_student(taught: Path, tmp_path: Path) -> None:
    maskery.export(taught, tmp_path / "teacher", "hf-mae")
    maskery.export(f"{taught}#student", tmp_path / "student", "hf-mae")  # pyright: ignore[reportArgumentType]
    teacher, student = (
        transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / who).state_dict() for who in ("teacher", "student")
    )
    assert any(not torch.equal(teacher[n], student[n]) for n in teacher if n.startswith("decoder."))
    assert any(not torch.equal(teacher[n], student[n]) for n in teacher if n.startswith("vit."))
    ours = load_encoder(taught).state_dict()
    assert torch.equal(teacher["vit.layers.0.mlp.fc1.weight"], ours["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("method", "words"), [("mixed-ae", "from mixtures of several"), ("cmt-mae", "not its 192 pixels")]
)
def test_methods_without_maes_decoder(
    method: str, words: str, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], taught: Path
) -> None:
    from tests.test_train import TINY

    more = {"decoder": TINY["settings"]["decoder"]} | ({"teacher": str(taught)} if method == "cmt-mae" else {})
    few = TINY | {"settings": more, "watch": {"looks": 0}}
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=1, method=method, **few)
    assert main(["export", str(tmp_path / "run"), "--to", "hf-mae", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "take --to hf" in error
    assert not (tmp_path / "out").exists()
    assert main(["export", str(tmp_path / "run"), "--to", "hf", "--out", str(tmp_path / "out")]) == 0


def test_weights_without_a_decoder_are_no_mae(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "random:vit_tiny_patch16_224", "--to", "hf-mae", "--out", str(tmp_path / "out")]) == 1
    assert "there is no decoder" in capsys.readouterr().err


def test_its_images_are_ours(run: Path, tmp_path: Path) -> None:
    maskery.export(run, tmp_path / "out", "hf")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 72, 3), np.uint8))
    encoder = maskery.load(run)
    ours = encoder.normalise(encoder.preprocessing.input("", image)[None])
    theirs = processed(tmp_path / "out", image)
    inner = (ours - theirs)[..., 3:-3]  # theirs resizes first: at the edges it sees what is cut away
    assert inner.abs().max() < 0.03
    assert (ours - theirs.flip(-1)).abs().mean() > 0.3
    assert processed(tmp_path / "out", Image.new("L", (64, 64))).shape == (1, 3, 32, 32)


def test_images_of_a_rectangle_with_two_channels(tmp_path: Path) -> None:
    from tests.exporters.conftest import RECTANGLE

    source = ExportModel(network(RECTANGLE))
    done = export_to("hf", source, tmp_path / "out")
    assert any("squeezes" in limit for limit in done.limits)
    assert any("does not make 2 channels" in limit for limit in done.limits)
    assert all(limit in (tmp_path / "out" / "README.md").read_text() for limit in done.limits)
    array = np.random.default_rng(0).integers(0, 256, (2, 24, 40), np.uint8)
    theirs = processed(tmp_path / "out", array, input_data_format="channels_first")
    torch.testing.assert_close(theirs, source.encoder.normalise(torch.from_numpy(array)[None] / 255))


def test_a_rectangle_is_no_mae_of_theirs(
    tmp_path: Path, scene_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.test_train import TINY

    few = TINY | {"watch": {"looks": 0}, "image_size": (32, 48)}
    maskery.pretrain(data=scene_folder, out=tmp_path / "run", steps=1, **few)
    assert main(["export", str(tmp_path / "run"), "--to", "hf-mae", "--out", str(tmp_path / "out")]) == 1
    assert "32 x 48, and ViTMAEForPreTraining takes squares only" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- classifiers
def test_a_probe_of_the_class_token(probed: Path, tmp_path: Path) -> None:
    maskery.export(probed, tmp_path / "out", "hf")
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "blue", 1: "red"}
    assert model.config.label2id == {"blue": 0, "red": 1}
    assert model.config.problem_type == "single_label_classification"
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        theirs = model(maskery.load(probed).normalise(images)).logits
    torch.testing.assert_close(theirs, by_hand(probed, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("more", [{"several": True}, {"layer": 3}], ids=str)
def test_other_classifiers_of_the_class_token(more: dict[str, Any], tmp_path: Path) -> None:
    export_to("hf", exported("probe", **more), tmp_path / "probe")
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "probe")
    assert list(model.config.label2id) == list(NAMES)
    assert model.config.num_hidden_layers == more.get("layer", 6)
    assert model.config.problem_type.startswith("multi" if "several" in more else "single")
    assert (".sigmoid()" in (tmp_path / "probe" / "README.md").read_text()) is ("several" in more)
    export_to("hf", exported("finetune", pooling="class_token"), tmp_path / "tuned")


def test_what_it_cannot_look_at_is_refused_with_what_can(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tuned), "--to", "hf", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "looks at the norm of the mean patch token, and transformers' ViTForImageClassification at the class" in said
    assert "take --to timm" in said
    assert not list(tmp_path.iterdir())
    for pooling in ("mean_patch", "both"):
        with pytest.raises(ValueError, match="take --to timm"):
            export_to("hf", exported("probe", pooling=pooling), tmp_path / "out")


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_its_images_are_cut_as_we_measure(size: tuple[int, int], tmp_path: Path) -> None:
    named = exported("probe", size=size, eval_share=0.8)
    export_to("hf", named, tmp_path / "out")
    assert named.classifier is not None
    wide = round(60 * size[1] / size[0])  # of the shape that it squeezes nothing of
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).resize((wide, 60))
    ours = named.encoder.normalise(named.classifier.preprocessing.input("", image)[None])
    assert ((ours - processed(tmp_path / "out", image)) * named.encoder.std).abs().max() < 0.02
    whole = Preprocessing(3, size).input("", image)[None]
    assert ((ours - named.encoder.normalise(whole)) * named.encoder.std).abs().mean() > 0.01


def test_a_classifier_is_no_mae(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tuned), "--to", "hf-mae", "--out", str(tmp_path / "out")]) == 1
    assert "a classifier has no decoder, which ViTMAEForPreTraining has; export the run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Robustness of classifiers, on scenes and on folders that look like the published sets."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskery.commands.robustness import RobustnessEvaluation, RobustnessOptions, check_options, robustness
from maskery.config import ImagesConfig
from maskery.data.dataset import open_data
from maskery.data.images import Images
from maskery.demo import scenes
from maskery.evals.eval_pass import DEFAULTS
from maskery.evals.results import read_result, read_results
from maskery.evals.robustness import Errors, ImageClassifier, corruption_errors
from maskery.terminal import Quiet, Terminal

CPU = torch.device("cpu")
NAMES = ("brightness", "gaussian_noise")
READ = ImagesConfig(channels=3, bits=8, mean=(0.5,) * 3, std=(0.2,) * 3)


@dataclass(frozen=True)
class ByHand:
    """Answers by the nearest mean colour of a class: wrong often, not always."""

    classes: tuple[str, ...]
    size: tuple[int, int] = (32, 32)
    crop_fraction: float = 1.0
    images: ImagesConfig = READ
    turn: int = 0

    @property
    def channels(self) -> int:
        return self.images.channels or 3

    def image_config(self, config: ImagesConfig) -> ImagesConfig:
        return replace(self.images, memory=0)

    def classify(self, image: Tensor, /) -> Tensor:
        n = len(self.classes)
        level = (image.mean((1, 2, 3)) * 2 * n).floor().long() + self.turn
        return torch.nn.functional.one_hot(level % n, n).float()


def evaluation_of(folder: Path, where: Path, step: int = 1, **options: Any) -> RobustnessEvaluation:
    """On every `step`-th of the held-out images."""
    data = open_data(str(folder), READ, (32, 32), Quiet())
    most = None if step == 1 else len(data.held_out) // step
    asked = RobustnessOptions(where, "photos", **{"corruptions": NAMES, "workers": 0, "most": most} | options)
    return RobustnessEvaluation(asked, data, data.held_out, CPU, Terminal())


def expected_errors(
    own: ByHand, images: Images, evaluation: RobustnessEvaluation, crop_fraction: float = 1.0
) -> Errors:
    """Errors by the parts, with the classifier's columns in the order of the data's classes."""
    order = [own.classes.index(name) for name in evaluation.data.classes]
    classifier = ImageClassifier(lambda x: own.classify(x)[:, order], own.classes, own.size, crop_fraction)
    return corruption_errors(classifier, images, evaluation.indices, NAMES, 0, DEFAULTS)


def test_errors_are_those_of_the_parts(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation, own = evaluation_of(scene_folder, tmp_path, json=tmp_path / "a.json"), ByHand(scenes.CLASSES)
    classes = evaluation.data.classes
    assert sorted(own.classes) == list(classes) != list(own.classes)  # so columns have to be put in order
    numbers = evaluation.run({"a": own})
    expected = expected_errors(own, evaluation.data.images, evaluation)
    assert numbers == expected.numbers()
    assert 0 < numbers["clean_error"] <= 1
    result = read_result(tmp_path / "a.json")
    assert (result.evaluation, result.of, result.numbers, result.shown) == ("robustness", "a", numbers, "3 x 32 x 32")
    assert result.tables["errors"]["brightness"] == {str(s): e for s, e in expected.by_corruption["brightness"].items()}
    assert result.protocol == (
        "2 common corruptions (brightness, gaussian_noise) at 5 severities, made on the fly after the cut to the "
        "network's input; all of 20 held-out images"
    )
    out = capsys.readouterr().out
    assert f"clean{'':11}{numbers['clean_error']:>7.1%}\n" in out
    assert "brightness" in out


def test_a_classifier_may_know_more_classes_and_not_fewer(scene_folder: Path, tmp_path: Path) -> None:
    evaluation = evaluation_of(scene_folder, tmp_path, corruptions=("brightness",))
    more, first = ByHand(("aa", *scenes.CLASSES, "zz")), ByHand(scenes.CLASSES[1:])
    assert 0 < evaluation.run({"more": more})["clean_error"] <= 1
    with pytest.raises(ValueError, match="1 of 10 test classes were not trained on"):
        evaluation.run({"more": more, "first": first})


def test_classifiers_are_compared(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    grey = ImagesConfig(channels=1, bits=8, mean=(0.5,), std=(0.2,))
    classifiers = {"a": ByHand(scenes.CLASSES), "b": ByHand(scenes.CLASSES, (40, 48), 0.875, grey, turn=1)}
    evaluation = evaluation_of(scene_folder, run, step=2, json=tmp_path / "both.json")
    numbers = evaluation.run(classifiers)
    a, b = read_results(tmp_path / "both.json")
    assert a.numbers == numbers
    assert (a.of, b.of, b.shown, b.counts["queries"]) == ("a", "b", "1 x 40 x 48", 10)
    assert "10 evenly spread of 20 held-out images" in b.protocol
    assert a.fingerprint == b.fingerprint
    assert len(list((run / "evals").glob("robustness-*.json"))) == 2
    images = Images(evaluation.data.images.source, channels=1, bits=8, pages="first", min_side=96)
    cropped, whole = (expected_errors(classifiers["b"], images, evaluation, part) for part in (0.875, 1.0))
    assert b.numbers == cropped.numbers() != whole.numbers()
    out = capsys.readouterr().out
    assert "points above a\n" in out
    row = next(line for line in out.splitlines() if line.startswith("error brightness"))
    assert f"{100 * a.numbers['error_brightness']:.1f} %" in row
    assert f"{100 * b.numbers['error_brightness']:.1f} %" in row


# ----------------------------------------------------------------------------------------------------- published sets
IDS = ("n01440764", "n01443537", "n01484850")


def write(folder: Path, name: str, level: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level).integers(-9, 9, (40, 40, 3))
    Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(folder / name)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """own/ with three classes by brightness, a/ and c/ with two of them."""
    for i, name in enumerate(IDS):
        for k in range(3):
            write(tmp_path / "own" / "val" / name, f"{k}.png", 20 + 42 * i)
            write(tmp_path / "own" / "train" / name, f"{k}.png", 20 + 42 * i)
    for k in range(4):
        write(tmp_path / "a" / IDS[0], f"{k}.png", 20 if k else 62)
        write(tmp_path / "a" / IDS[1], f"{k}.png", 62)
        for severity in range(1, 6):
            write(tmp_path / "c" / "blur" / "defocus_blur" / str(severity) / IDS[0], f"{k}.png", 20)
            write(tmp_path / "c" / "blur" / "defocus_blur" / str(severity) / IDS[1], f"{k}.png", 20)
    return tmp_path


def test_published_sets(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets_of = {"imagenet_a": sets / "a", "imagenet_c": sets / "c", "json": tmp_path / "x.json"}
    numbers = evaluation_of(sets / "own", tmp_path, corruptions=("brightness",), **sets_of).run({"a": ByHand(IDS)})
    assert (numbers["clean_error"], numbers["error_imagenet_a"]) == (0.0, 1 / 8)
    own, official = read_results(tmp_path / "x.json")
    assert (own.evaluation, official.evaluation) == ("robustness", "imagenet_c")
    assert own.counts["imagenet_a"] == 8
    assert "2 of its 2 classes among the classifier's 3" in own.notes[0]
    assert official.numbers == {"error_defocus_blur": 0.5}
    assert (official.data, official.protocol) == (str(sets / "c"), "ImageNet-C's own files")
    captured = capsys.readouterr()
    assert "  12.5%  imagenet_a" in captured.out
    assert "ImageNet-C:\n" in captured.out
    assert "images of other classes" not in captured.err


def test_what_is_refused_before_anything_takes_long(sets: Path, scene_folder: Path) -> None:
    own, scene = ByHand(IDS), ByHand(scenes.CLASSES)
    (sets / "d" / "fog" / "5").mkdir(parents=True)

    def check(classifier: ByHand, **options: Any) -> None:
        check_options(RobustnessOptions(sets, "photos", **options), [classifier])

    check(own, imagenet_r=sets / "a", imagenet_c=sets / "c")
    for classifier, options, words in (
        (own, {"corruptions": ("brightnes",)}, "there is no corruption 'brightnes'; did you mean brightness"),
        (scene, {"imagenet_a": sets / "a"}, "classes are not named by WordNet ids"),
        (own, {"imagenet_a": sets / "nothing"}, "nothing: no such folder"),
        (own, {"imagenet_c": sets / "a"}, "not ImageNet-C"),
        (own, {"imagenet_c": sets / "d"}, "no corruption is there at all five severities"),
        (ByHand(IDS, (16, 16)), {}, "the network sees 16 x 16"),
    ):
        with pytest.raises(ValueError, match=words):
            check(classifier, **options)
    with pytest.raises(ValueError, match="--beside names the same twice: x, x"):
        robustness(where=Path("x"), data="photos", beside=(Path("x"),))
    with pytest.raises(ValueError, match="nowhere: no classifier"):
        robustness(where=Path("nowhere"), data="photos")
    nothing = replace(evaluation_of(scene_folder, sets), held_out=np.empty(0, np.int64))
    with pytest.raises(ValueError, match="no image is left to classify"):
        nothing.run({"a": scene})

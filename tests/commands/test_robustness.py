"""Robustness of classifiers, on scenes and on folders that look like the published sets."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskery.commands.robustness import ALL, Trials, refuse, robustness, tried
from maskery.config import ImagesConfig
from maskery.data.dataset import open_data
from maskery.data.images import Images
from maskery.demo import scenes
from maskery.evals.results import read, read_all
from maskery.evals.robustness import robustness as errors_of
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


def trials_on(folder: Path, **changes: object) -> Trials:
    opened = open_data(str(folder), READ, (32, 32), Quiet())
    facts = {"corruptions": NAMES, "published": {}, "imagenet_c": None, "seed": 0, "workers": 0, "device": CPU}
    return Trials(**{"opened": opened, "asking": opened.held_out, "of": len(opened.held_out)} | facts | changes)


def test_errors_are_those_of_the_parts(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials, own = trials_on(scene_folder), ByHand(scenes.CLASSES)
    classes = trials.opened.classes
    assert sorted(own.classes) == list(classes) != list(own.classes)  # so columns have to be put in order
    numbers = tried({"a": own}, "photos", trials, Terminal(), tmp_path, tmp_path / "a.json")
    order = [own.classes.index(name) for name in classes]
    expected = errors_of(
        lambda x: own.classify(x)[:, order], trials.opened.images, trials.asking, (32, 32), CPU, names=NAMES
    )
    assert numbers == expected.numbers()
    assert 0 < numbers["clean_error"] <= 1
    result = read(tmp_path / "a.json")
    assert (result.evaluation, result.of, result.numbers, result.shown) == ("robustness", "a", numbers, "3 x 32 x 32")
    assert result.tables["errors"]["brightness"] == {str(s): e for s, e in expected.by["brightness"].items()}
    assert result.protocol == (
        "2 common corruptions (brightness, gaussian_noise) at 5 severities, made on the fly after the cut to the "
        "network's input; all of 20 held-out images"
    )
    said = capsys.readouterr().out
    assert f"clean{'':11}{numbers['clean_error']:>7.1%}\n" in said
    assert "brightness" in said


def test_a_classifier_may_know_more_classes_and_not_fewer(scene_folder: Path, tmp_path: Path) -> None:
    trials = trials_on(scene_folder, corruptions=("brightness",))
    more, first = ByHand(("aa", *scenes.CLASSES, "zz")), ByHand(scenes.CLASSES[1:])
    assert 0 < tried({"more": more}, "photos", trials, Terminal(), tmp_path, None)["clean_error"] <= 1
    with pytest.raises(ValueError, match="1 of 10 test classes were not trained on"):
        tried({"more": more, "first": first}, "photos", trials, Terminal(), tmp_path, None)


def test_classifiers_side_by_side(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    grey = ImagesConfig(channels=1, bits=8, mean=(0.5,), std=(0.2,))
    every = {
        "a": ByHand(scenes.CLASSES),
        "b": ByHand(scenes.CLASSES, (40, 48), 0.875, grey, turn=1),
    }
    trials = trials_on(scene_folder, asking=trials_on(scene_folder).asking[::2])
    numbers = tried(every, "photos", trials, Terminal(), run, tmp_path / "both.json")
    a, b = read_all(tmp_path / "both.json")
    assert a.numbers == numbers
    assert (a.of, b.of, b.shown, b.counts["queries"]) == ("a", "b", "1 x 40 x 48", 10)
    assert "10 evenly spread of 20 held-out images" in b.protocol
    assert a.fingerprint == b.fingerprint
    assert len(list((run / "evals").glob("robustness-*.json"))) == 2
    own = every["b"]
    order = [own.classes.index(name) for name in trials.opened.classes]
    images = Images(trials.opened.images.source, channels=1, bits=8, pages="first", min_side=96)
    kept, whole = (
        errors_of(lambda x: own.classify(x)[:, order], images, trials.asking, own.size, CPU, names=NAMES, share=share)
        for share in (0.875, 1.0)
    )
    assert b.numbers == kept.numbers() != whole.numbers()
    said = capsys.readouterr().out
    assert "points above a\n" in said
    row = next(line for line in said.splitlines() if line.startswith("error brightness"))
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
    published = {"imagenet_a": sets / "a"}
    trials = trials_on(sets / "own", corruptions=("brightness",), published=published, imagenet_c=sets / "c")
    numbers = tried({"a": ByHand(IDS)}, "photos", trials, Terminal(), tmp_path, tmp_path / "x.json")
    assert (numbers["clean_error"], numbers["error_imagenet_a"]) == (0.0, 1 / 8)
    own, official = read_all(tmp_path / "x.json")
    assert (own.evaluation, official.evaluation) == ("robustness", "imagenet_c")
    assert own.counts["imagenet_a"] == 8
    assert "2 of its 2 classes among the classifier's 3" in own.notes[0]
    assert official.numbers == {"error_defocus_blur": 0.5}
    assert (official.data, official.protocol) == (str(sets / "c"), "ImageNet-C's own files")
    said = capsys.readouterr()
    assert "  12.5%  imagenet_a" in said.out
    assert "ImageNet-C:\n" in said.out
    assert "images of other classes" not in said.err


def test_what_is_refused_before_anything_takes_long(sets: Path, scene_folder: Path) -> None:
    own, scene = {"a": ByHand(IDS)}, {"a": ByHand(scenes.CLASSES)}
    refuse(own, ALL, {"imagenet_r": sets / "a"}, sets / "c")
    with pytest.raises(ValueError, match="there is no corruption 'brightnes'; did you mean brightness"):
        refuse(own, ("brightnes",), {}, None)
    with pytest.raises(ValueError, match="classes are not named by WordNet ids"):
        refuse(scene, ALL, {"imagenet_a": sets / "a"}, None)
    with pytest.raises(ValueError, match="nothing: no such folder"):
        refuse(own, ALL, {"imagenet_a": sets / "nothing"}, None)
    with pytest.raises(ValueError, match="not ImageNet-C"):
        refuse(own, ALL, {}, sets / "a")
    (sets / "d" / "fog" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match="no corruption is there at all five severities"):
        refuse(own, ALL, {}, sets / "d")
    with pytest.raises(ValueError, match="the network sees 16 x 16"):
        refuse({"a": ByHand(IDS, (16, 16))}, ALL, {}, None)
    with pytest.raises(ValueError, match="--beside names the same twice: x, x"):
        robustness(Path("x"), "photos", beside=(Path("x"),))
    with pytest.raises(ValueError, match="nowhere: no classifier"):
        robustness(Path("nowhere"), "photos")
    nothing = trials_on(scene_folder, asking=np.empty(0, np.int64))
    with pytest.raises(ValueError, match="no image is left to classify"):
        tried(scene, "photos", nothing, Terminal(), scene_folder, None)

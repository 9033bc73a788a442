from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskery.data.crops import CenterCrop
from maskery.data.eval_dataset import EvalDataset
from maskery.data.images import Images
from maskery.data.sources.names import hashes
from maskery.data.sources.open import open_source
from maskery.evals.corruptions import BENCHMARK, EXTRA, SEVERITIES, corrupt
from maskery.evals.eval_pass import DEFAULTS, InferenceOptions
from maskery.evals.robustness import (
    ALEXNET,
    ALEXNET_CLEAN,
    Corrupted,
    Errors,
    ImageClassifier,
    corruption_errors,
    folder_error,
    ids_of,
    imagenet_c_errors,
    imagenet_c_folders,
    recognised,
    shared_classes,
    wordnet_ids,
)

SIZE = (32, 32)
NAMES = ("gaussian_noise", "brightness")


def write(folder: Path, name: str, colour: tuple[int, int, int], seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (40, 40, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / name)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for i in range(5):
        write(tmp_path / "set" / "blue", f"{i}.png", (60, 60, 150), i)
        write(tmp_path / "set" / "red", f"{i}.png", (150, 60, 60), 10 + i)
    return tmp_path / "set"


def open_images(where: Path) -> Images:
    return Images(open_source(where), channels=3, bits=8, pages="first", min_side=64)


def errors_of(
    classify: Callable[[Tensor], Tensor],
    images: Images,
    n: int,
    names: Sequence[str] = NAMES,
    seed: int = 0,
    options: InferenceOptions = DEFAULTS,
) -> Errors:
    classifier = ImageClassifier(classify, ("blue", "red"), SIZE)
    return corruption_errors(classifier, images, np.arange(n), names, seed, options)


def redder(x: Tensor) -> Tensor:
    """Logits of (blue, red)."""
    mean = x.mean((2, 3))
    return torch.stack([mean[:, 2], mean[:, 0]], dim=1)


def dark_is_blue(x: Tensor) -> Tensor:
    """Takes bright images for red: brightness fools it."""
    bright = x.mean((1, 2, 3))
    return torch.stack([-bright, bright - 0.9], dim=1)


def test_errors_are_those_of_the_corrupted_images_themselves(colours: Path) -> None:
    images = open_images(colours)
    found = errors_of(dark_is_blue, images, 8, options=InferenceOptions(batch_size=3))
    assert found.images == 8
    assert found.clean == 3 / 8  # every image is dark, three are red
    assert found.by_corruption.keys() == set(NAMES)
    assert images.source.labels is not None
    for name in NAMES:
        for severity in SEVERITIES:
            wrong = 0
            for i in range(8):
                view = EvalDataset(images, np.array([i]), CenterCrop(SIZE), 1)[0]["images"][0].permute(1, 2, 0).numpy()
                key = int(hashes([images.source.names[i]])[0])
                x = torch.from_numpy(corrupt(view, name, severity, 0, key)).permute(2, 0, 1)[None] / 255
                wrong += int(dark_is_blue(x).argmax(1)[0]) != images.source.labels[i]
            assert found.by_corruption[name][severity] == wrong / 8
    assert found.by_corruption["brightness"][5] == 5 / 8  # now every image is bright, and taken for red


def test_batches_and_workers_change_nothing_and_the_bar_comes_to_its_end(colours: Path) -> None:
    images, ticks = open_images(colours), []

    def noisy(x: Tensor) -> Tensor:
        return torch.stack([x[:, :, :8].std((1, 2, 3)), x[:, :, 8:].std((1, 2, 3))], dim=1)

    # starts OpenCV's threads, which forks do not have
    corrupt(np.zeros((512, 512, 3), np.uint8), "defocus_blur", 5, 0, 0)
    names = ("gaussian_noise", "fog", "defocus_blur", "impulse_noise")
    one = errors_of(noisy, images, 10, names, options=InferenceOptions(batch_size=4))
    options = InferenceOptions(workers=1, batch_size=10, progress=lambda *x: ticks.append(x))
    other = errors_of(noisy, images, 10, names, options=options)
    assert one.by_corruption == other.by_corruption
    assert len({tuple(e.values()) for e in one.by_corruption.values()}) > 1
    assert ticks == [(i, 5) for i in (1, 2, 3, 4, 5)]
    again = errors_of(noisy, images, 10, names, seed=1)
    assert again.clean == one.clean
    assert errors_of(redder, images, 10, names).clean == 0.0


def test_an_image_is_corrupted_the_same_alone(colours: Path) -> None:
    images = open_images(colours)
    every = Corrupted(EvalDataset(images, np.arange(10), CenterCrop(SIZE), 10), ["fog"], 0)[1]
    alone = Corrupted(EvalDataset(images, np.array([7]), CenterCrop(SIZE), 10), ["fog"], 0)[1]
    assert every["images"].shape == (5, 10, 3, 32, 32)
    assert torch.equal(alone["images"][:, 0], every["images"][:, 7])
    assert not torch.equal(every["images"][:, 6], every["images"][:, 7])


def test_what_cannot_be_read_is_left_out(colours: Path) -> None:
    (colours / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = open_images(colours)
    found = errors_of(redder, images, 11, ["brightness"], options=InferenceOptions(batch_size=1))
    assert (found.images, len(found.skipped)) == (10, 1)
    assert found.skipped[0][0] == "red/broken.png"
    bad = np.array([list(images.source.names).index("red/broken.png")])
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        corruption_errors(ImageClassifier(redder, ("blue", "red"), SIZE), images, bad, ["brightness"], 0, DEFAULTS)


def test_nan_and_small_images_are_refused(colours: Path) -> None:
    images = open_images(colours)
    with pytest.raises(ValueError, match="logits of 10 of 10 images hold NaN"):
        errors_of(lambda x: x.mean((2, 3)) / 0 * 0, images, 10, ["fog"])
    with pytest.raises(ValueError, match="the network sees 16 x 16"):
        corruption_errors(ImageClassifier(redder, ("a", "b"), (16, 16)), images, np.arange(10), NAMES, 0, DEFAULTS)


# ------------------------------------------------------------------------------------------- published test sets
CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")  # what the classifier knows


def by_colour(x: Tensor) -> Tensor:
    """Logits of CLASSES: the first takes everything, unless it is forbidden to."""
    mean = x.mean((2, 3))
    return torch.stack([torch.full((len(x),), 9.0), mean[:, 0], mean[:, 1], mean[:, 2]], dim=1)


def test_the_lists_are_those_of_the_publications() -> None:
    """Sizes, and the first classes of the index lists in the authors' evaluation code."""
    every = ids_of("ImageNet")
    assert len(set(every)) == len(every) == 1000
    assert list(every) == sorted(every)
    for name, first in (("ImageNet-A", (6, 11, 13, 15, 17, 22, 23, 27)), ("ImageNet-R", (1, 2, 4, 6, 8, 9, 11, 13))):
        ids = ids_of(name)
        assert len(set(ids)) == 200
        assert set(ids) < set(every)
        assert sorted(every.index(i) for i in ids)[:8] == list(first)


@pytest.mark.parametrize("name", ["ImageNet-A", "ImageNet-R", "ImageNet"])
def test_a_set_is_recognised_and_its_logits_chosen(name: str) -> None:
    folders = ids_of(name)
    assert recognised(folders) == name
    columns, position, note = shared_classes(folders, [str(i) for i in range(1000)], "there")
    assert note.startswith(f"{name}: {len(folders)} of its {len(folders)} classes among the classifier's 1000")
    assert "left out" not in note
    assert columns.tolist() == [ids_of("ImageNet").index(i) for i in folders]
    assert position.tolist() == list(range(len(folders)))


def test_a_users_classifier_of_a_few_classes_in_any_order() -> None:
    folders, classes = ["n01443537", "n01484850", "n09999999"], ["n01484850", "n01440764", "n01443537"]
    columns, position, note = shared_classes(folders, classes, "there")
    assert (columns.tolist(), position.tolist()) == ([2, 0], [0, 1, -1])
    assert "a set of its own: 2 of its 3 classes" in note
    assert recognised(["n01443537"]) is None


def test_classes_that_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match=r"not named by WordNet ids .* one is 'tench'"):
        wordnet_ids(["n01440764", "tench"])
    with pytest.raises(ValueError, match="not named by WordNet ids"):
        wordnet_ids([str(i) for i in range(10)])
    with pytest.raises(ValueError, match="there: none of its 1 classes is one of the classifier's 2"):
        shared_classes(["n01443537"], ["n01484850", "n01440764"], "there")


def test_no_imagenet_c(tmp_path: Path) -> None:
    (tmp_path / "gaussian_noise").mkdir()
    with pytest.raises(ValueError, match="not ImageNet-C: there is no folder like gaussian_noise/1"):
        imagenet_c_folders(tmp_path)
    (tmp_path / "noise" / "gaussian_noise" / "4").mkdir(parents=True)
    assert imagenet_c_folders(tmp_path) == {("gaussian_noise", 4): tmp_path / "noise" / "gaussian_noise" / "4"}


def test_a_folder_is_classified_among_its_own_classes_only(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "r" / "n01443537", f"{i}.png", (150, 60, 60), i)
        write(tmp_path / "r" / "n01491361", f"{i}.png", (60, 60, 150), i)
        write(tmp_path / "r" / "n99999999", f"{i}.png", (60, 150, 60), i)
    write(tmp_path / "r" / "n01491361", "red.png", (150, 60, 60))
    classifier = ImageClassifier(by_colour, CLASSES, SIZE)
    error, images, note = folder_error(classifier, tmp_path / "r", InferenceOptions(batch_size=2))
    assert (error, images) == (1 / 7, 7)
    assert "2 of its 3 classes among the classifier's 4" in note
    assert "images of other classes are left out" in note


def test_imagenet_c_from_its_folders(tmp_path: Path) -> None:
    for at, red in (("blur/defocus_blur/1", 3), ("blur/defocus_blur/2", 1), ("fog/5", 3)):
        for i in range(3):
            write(tmp_path / at / "n01443537", f"{i}.png", (150, 60, 60) if i < red else (60, 60, 150), i)
            write(tmp_path / at / "n01491361", f"{i}.png", (60, 60, 150), i)
    ticks: list[tuple[int, int]] = []
    options = InferenceOptions(batch_size=4, progress=lambda *x: ticks.append(x))
    found, note = imagenet_c_errors(ImageClassifier(by_colour, CLASSES, SIZE), tmp_path, 0.1, options)
    assert found.by_corruption == {"defocus_blur": {1: 0.0, 2: pytest.approx(2 / 6)}, "fog": {5: 0.0}}
    assert (found.clean, found.images, found.numbers()) == (0.1, 6, {"clean_error": 0.1})
    assert "2 of its 2 classes" in note
    assert ticks[-1] == (3, 3)


# ------------------------------------------------------------------------------------------------------- the numbers
def flat(errors: dict[str, float]) -> dict[str, dict[int, float]]:
    return {name: dict.fromkeys(SEVERITIES, value) for name, value in errors.items()}


def test_alexnet_itself_is_one() -> None:
    numbers = Errors(ALEXNET_CLEAN, flat(ALEXNET), 10).numbers()
    assert (numbers["mce"], numbers["relative_mce"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert numbers["mean_error"] == pytest.approx(sum(ALEXNET.values()) / 15)


def test_alexnets_constants_are_means_over_severities() -> None:
    """By severity, as some evaluation code lists them."""
    listed = (
        (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
        (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
        (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
        (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
        (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
        (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
        (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
        (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
        (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
        (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
        (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
        (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    )
    assert list(ALEXNET) == list(BENCHMARK)
    for name, errors in zip(BENCHMARK, listed, strict=True):
        assert ALEXNET[name] == pytest.approx(sum(errors) / 5, abs=1e-9), name


def test_resnet_50s_row_gives_its_published_numbers() -> None:
    """Table 1 of the paper: clean error 23.9, mCE 76.7, relative mCE 105.0; each corruption in whole percents."""
    row = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)
    errors = flat({n: c / 100 * ALEXNET[n] for n, c in zip(BENCHMARK, row, strict=True)})
    numbers = Errors(0.239, errors, 50_000).numbers()
    assert numbers["mce"] == pytest.approx(0.767, abs=0.005)
    assert numbers["relative_mce"] == pytest.approx(1.05, abs=0.01)


def test_each_number_is_named_as_what_it_is_and_extras_are_in_none_of_the_others() -> None:
    by = flat(dict.fromkeys(BENCHMARK, 0.5)) | flat(dict.fromkeys(EXTRA, 0.9))
    numbers = Errors(0.2, by, 10).numbers()
    assert numbers["mean_error"] == pytest.approx(0.5)
    assert numbers["mean_error_extra"] == pytest.approx(0.9)
    assert numbers["mce"] == pytest.approx(sum(0.5 / a for a in ALEXNET.values()) / 15)
    assert numbers["clean_error"] == 0.2
    assert numbers["error_fog"] == 0.5
    text = "\n".join(Errors(0.2, by, 10).lines())
    assert "mean error over the 15 corruptions and 5 severities, as it is" in text
    assert "relative to AlexNet's error on ImageNet-C" in text
    assert text.count("(extra)") == 4


def test_what_is_missing_makes_no_number() -> None:
    by = flat(dict.fromkeys(BENCHMARK, 0.5))
    del by["fog"][3]
    result = Errors(None, by, 10)
    assert set(result.numbers()) == {f"error_{n}" for n in BENCHMARK if n != "fog"}
    assert "       -" in next(line for line in result.lines() if line.startswith("fog"))

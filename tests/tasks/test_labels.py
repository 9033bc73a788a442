from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskery.data.dataset import ImageData
from maskery.tasks.classification.objective import label_loss
from maskery.tasks.classification.probe import Probe, ProbeConfig
from maskery.tasks.labels import LabelsConfig, stratified_split

from .images import several, two_colours
from .runs import VIT, opened


def prepare(config: LabelsConfig, data: ImageData) -> tuple[LabelsConfig, ImageData]:
    settings, data = Probe.prepare(ProbeConfig(labels=config), data)
    return settings.labels, data


def names(data: ImageData, which: np.ndarray) -> list[str]:
    return [str(data.images.source.names[i]) for i in which]


def test_the_data_say_which_classes_there_are(colours: Path) -> None:
    data = opened(colours)
    config, same = prepare(LabelsConfig(), data)
    assert (config.names, config.count, config.several, config.weights) == (("blue", "red"), 2, False, ())
    assert np.array_equal(same.train, data.train)
    assert np.array_equal(same.held_out, data.held_out)
    assert len(same.validation) == 0
    assert LabelsConfig().count == 2


def test_names_of_classes_come_back_as_they_were(tmp_path: Path) -> None:
    folder = two_colours(tmp_path / "images", {"train": 2, "val": 2})
    for split in ("train", "val"):
        (folder / split / "red").rename(folder / split / 'd\'é "1, 2" 红')
    config, data = prepare(LabelsConfig(), opened(folder))
    assert config.names == data.classes == ("blue", 'd\'é "1, 2" 红')


def test_a_part_of_every_class_is_kept_out_to_choose_by(colours: Path) -> None:
    data = opened(colours)
    _, one = prepare(LabelsConfig(tune=0.2), data)
    assert sorted([*one.train, *one.validation]) == data.train.tolist()
    assert [n.split("/")[1] for n in names(one, one.validation)] == ["blue"] * 4 + ["red"] * 4
    _, again = prepare(LabelsConfig(tune=0.2), data)
    _, other = prepare(LabelsConfig(tune=0.2, draw=1), data)
    assert np.array_equal(one.validation, again.validation)
    assert not np.array_equal(one.validation, other.validation)


def test_every_class_keeps_an_image_to_train_on() -> None:
    indices, of = np.arange(10, 20), np.array([0] * 7 + [1] * 2 + [2])
    rest, kept = stratified_split(indices, of, 0.9, 0)
    assert [(of[kept - 10] == c).sum() for c in range(3)] == [6, 1, 0]
    assert sorted([*rest, *kept]) == indices.tolist()
    rest, kept = stratified_split(indices, of, 0.01, 0)
    assert [(of[kept - 10] == c).sum() for c in range(3)] == [1, 1, 0]


def test_a_val_split_beside_a_test_split_is_to_choose_by(tmp_path: Path) -> None:
    data = opened(two_colours(tmp_path / "images", {"train": 6, "val": 3, "test": 2}))
    _, split = prepare(LabelsConfig(tune=0.5), data)
    parts = [names(split, which) for which in (split.train, split.validation, split.held_out)]
    assert [{n.split("/")[0] for n in part} for part in parts] == [{"train"}, {"val"}, {"test"}]
    assert [len(part) for part in parts] == [12, 6, 4]


def test_few_labels_are_drawn_by_their_seed(colours: Path) -> None:
    data = opened(colours)
    draws = [prepare(LabelsConfig(shots=3, draw=s), data)[1] for s in (0, 0, 1)]
    assert [len(d.train) for d in draws] == [6, 6, 6]
    assert np.array_equal(draws[0].train, draws[1].train)
    assert not np.array_equal(draws[0].train, draws[2].train)
    share = prepare(LabelsConfig(share="50%", tune=0.2), data)[1]
    assert (len(share.train), len(share.validation)) == (16, 4)  # what is chosen by is of the few, too
    assert all(np.array_equal(d.held_out, data.held_out) for d in draws)


def test_classes_of_a_balanced_loss_count_alike(tmp_path: Path) -> None:
    folder = two_colours(tmp_path / "images", {"train": 6, "val": 2})
    for i in range(4):
        (folder / "train" / "red" / f"{i:03d}.png").unlink()
    config, data = prepare(LabelsConfig(balanced=True), opened(folder))
    blue, red = config.weights
    assert red == pytest.approx(3 * blue, rel=1e-5)
    assert (6 * blue + 2 * red) / 8 == pytest.approx(1, rel=1e-5)
    truth = torch.from_numpy(data.labels[data.train])
    logits = torch.zeros(8, 2)
    assert float(label_loss(logits, truth, config)) == pytest.approx(float(F.cross_entropy(logits, truth)), rel=1e-5)
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(logits, truth, reduction="none")
    mean_of_means = (each[truth == 0].mean() + each[truth == 1].mean()) / 2
    torch.testing.assert_close(label_loss(logits, truth, config), mean_of_means, rtol=1e-4, atol=1e-6)
    as_shares = label_loss(logits, F.one_hot(truth).float(), config)
    torch.testing.assert_close(as_shares, label_loss(logits, truth, config))


def test_a_class_without_training_images_has_no_weight(tmp_path: Path) -> None:
    folder = two_colours(tmp_path / "images", {"train": 4, "val": 2, "test": 2})
    (folder / "val" / "red").rename(folder / "val" / "rare")
    config, _ = prepare(LabelsConfig(balanced=True), opened(folder))
    assert (config.names, config.weights) == (("blue", "rare", "red"), (1.0, 0.0, 1.0))


def test_micro_batches_of_a_balanced_loss_add_up_to_the_whole() -> None:
    config = LabelsConfig(classes='["a", "b", "c"]', weights=(0.5, 1.0, 3.0))
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(12, 3, generator=g), torch.randint(3, (12,), generator=g)
    parts = [label_loss(logits[i : i + 3], truth[i : i + 3], config) / 4 for i in range(0, 12, 3)]
    torch.testing.assert_close(torch.stack(parts).sum(), label_loss(logits, truth, config))


def test_several_labels_an_image(tmp_path: Path) -> None:
    data = opened(several(tmp_path))
    config, known = prepare(LabelsConfig(tune=0.25), data)
    assert (config.names, config.several) == (("blue", "red"), True)
    assert (len(data.train), len(data.held_out)) == (48, 24)
    assert (len(known.train), len(known.validation), len(known.held_out)) == (35, 12, 23)  # one of each has no labels
    assert data.multi_hot is not None
    assert int(data.multi_hot[[*known.train, *known.validation, *known.held_out]].max()) == 1
    logits, y = torch.randn(4, 2), torch.tensor([[1.0, 0], [0, 0], [1, 1], [0.3, 0.9]])
    torch.testing.assert_close(label_loss(logits, y, config), F.binary_cross_entropy_with_logits(logits, y))
    tasks = [Probe(ProbeConfig(labels=labels), VIT) for labels in (config, LabelsConfig())]
    assert [task.label_of({"image": torch.rand(3, 3, 32, 32)}).tolist() for task in tasks] == [[[0, 0]] * 3, [0] * 3]


def test_a_balanced_loss_over_several_labels_keeps_its_size(tmp_path: Path) -> None:
    file = several(tmp_path)
    rows = file.read_text().replace("red|blue,train", "blue,train").splitlines()
    file.write_text("\n".join(rows) + "\n")
    config, data = prepare(LabelsConfig(balanced=True), opened(file))
    assert data.multi_hot is not None
    blue, red = data.multi_hot[data.train].sum(0)
    assert red < blue
    assert config.weights[1] == pytest.approx(config.weights[0] * blue / red, rel=1e-4)
    y = torch.from_numpy(data.multi_hot[data.train]).float()
    plain = F.binary_cross_entropy_with_logits(torch.zeros_like(y), y)
    torch.testing.assert_close(label_loss(torch.zeros_like(y), y, config), plain, rtol=1e-4, atol=1e-6)


def bad(case: str, folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """(data, settings of the images, of the labels)."""
    if case == "several":
        return several(folder), {}, {"shots": 1}
    images = two_colours(folder / "images", {"train": 12, "val": 2})
    if case == "one class":
        for file in (images / "train" / "red").iterdir():
            file.unlink()
    if case == "another class":
        (images / "val" / "red").rename(images / "val" / "green")
    if case == "nothing held out":
        for file in [*images.glob("val/*/*")]:
            file.unlink()
        return images, {"holdout": 0.0}, {}
    return images, {"labels": case != "no labels"}, {"shots": 13} if case == "too few" else {}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no labels", "training images have no labels"),
        ("one class", r"training images are all of one class \(blue\)"),
        ("another class", r"held-out classes differ: 1 held-out classes have no training image \(green\)"),
        ("nothing held out", "nothing is held out, so nothing could be measured; set --images.holdout"),
        ("too few", "13 labelled training images of each class are wanted, but blue has 12"),
        ("several", "--labels and --shots are for one label an image, these have several"),
    ],
)
def test_data_that_nothing_can_be_learned_from(tmp_path: Path, case: str, said: str) -> None:
    data, images, config = bad(case, tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        prepare(LabelsConfig(**config), opened(data, **images))
    assert "\n" not in str(caught.value)

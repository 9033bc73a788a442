"""Class subsets of ImageNet's test sets."""

from pathlib import Path

import pytest
import torch

from maskery.evals.imagenet_sets import ids_of, imagenet_c_folders, recognised, shared_classes, wordnet_ids


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
    found = shared_classes(folders, [str(i) for i in range(1000)], "there")
    assert found.note.startswith(f"{name}: {len(folders)} of its {len(folders)} classes among the classifier's 1000")
    assert "left out" not in found.note
    logits = torch.arange(1000.0)[None]
    assert found.logits(logits)[0].tolist() == [ids_of("ImageNet").index(i) for i in folders]
    assert found.position.tolist() == list(range(len(folders)))


def test_a_users_classifier_of_a_few_classes_in_any_order() -> None:
    found = shared_classes(["n01443537", "n01484850", "n09999999"], ["n01484850", "n01440764", "n01443537"], "there")
    assert found.columns.tolist() == [2, 0]
    assert found.position.tolist() == [0, 1, -1]
    assert "a set of its own: 2 of its 3 classes" in found.note
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

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import maskery
from maskery.config import ImagesConfig
from maskery.data.crops import CenterCrop
from maskery.data.dataset import open_data
from maskery.evals.classify import image_logits
from maskery.evals.eval_pass import DEFAULTS, EvalPass
from maskery.evals.results import read_result
from maskery.inference.classifier import Classifier, Prediction, load_classifier
from maskery.runs.directory import CHOSEN_HEAD
from maskery.tasks.checkpoint import load_objective
from maskery.terminal import Quiet
from tests.classified import by_hand, finished, trained
from tests.tasks.images import save, several, two_colours
from tests.tasks.runs import done
from tests.test_train import TINY


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two colours, some of them much larger than the network's input and of another shape."""
    folder = two_colours(tmp_path_factory.mktemp("colours") / "photos", {"train": 8, "val": 4})
    for i, shape in enumerate([(90, 61, 3), (50, 140, 3), (33, 34, 3)]):
        ramp = np.linspace(0, 255, shape[1]).astype(np.uint8)[None, :, None]
        save(folder / "val" / "red" / f"big{i}.png", np.broadcast_to(ramp, shape), i)
    return folder


@pytest.fixture(scope="module")
def tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("finetune", photos, tmp_path_factory.mktemp("tuned") / "run")


def test_it_answers_as_its_evaluation_did(tuned: Path, photos: Path) -> None:
    like = load_classifier(tuned)
    data = open_data(str(photos), like.images, like.size, Quiet())
    crops = EvalPass.of(data.images, data.held_out, CenterCrop(like.size, like.crop_fraction), DEFAULTS)
    found = image_logits(like.classify, crops)
    wanted = found.softmax(1)
    files = [photos / str(data.images.source.names[i]) for i in crops.indices]
    predictor = maskery.classifier(tuned)
    assert (predictor.classes, predictor.multilabel) == (("blue", "red"), False)
    said = predictor.predict(files, batch_size=4)
    assert [p.name for p in said] == [str(file) for file in files]
    for one, row in zip(said, wanted, strict=True):
        torch.testing.assert_close(torch.tensor([one.probabilities[n] for n in predictor.classes]), row)
        assert one.label == predictor.classes[int(row.argmax())]
        assert one.probability == pytest.approx(float(row.max()))
        assert list(one.probabilities.values()) == sorted(one.probabilities.values(), reverse=True)
    right = sum(p.label == file.parent.name for p, file in zip(said, files, strict=True))
    assert right / len(said) == pytest.approx(read_result(tuned / "evals" / "result.json").numbers["top1"])
    assert len({round(p.probability, 3) for p in said}) > 3  # they are not all the same


def test_every_kind_of_image_is_the_same_image(tuned: Path, photos: Path) -> None:
    file, predictor = photos / "val" / "red" / "big0.png", maskery.classifier(str(tuned))
    array = np.asarray(Image.open(file))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = predictor.predict(file)[0].probabilities
    for given in (str(file), Image.open(file), array, tensor, array[None], [tensor]):
        assert predictor.predict(given)[0].probabilities == expected
    for finer in (array.astype(np.uint16) * 257, tensor / 255, array / 255):  # not rounded to levels
        assert predictor.predict(finer)[0].probabilities == pytest.approx(expected, abs=0.1)
    plain = torch.full((2, 3, 37, 37), 0.3)  # of which every cut is the same
    wanted = by_hand(tuned, plain[:, :, :32, :32]).softmax(1)[0].tolist()
    assert [predictor.predict(plain)[1].probabilities[n] for n in ("blue", "red")] == pytest.approx(wanted, abs=1e-4)
    assert predictor.predict(plain)[1].name == "image 1"
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        predictor.predict([file, "nowhere.png"])


def test_several_labels_an_image(tmp_path: Path) -> None:
    run = finished("finetune", several(tmp_path / "images"), tmp_path / "run", several=True)
    predictor = maskery.classifier(run)
    assert predictor.multilabel
    images = torch.rand(6, 3, 37, 37)
    logits = predictor.classify(torch.stack([predictor.preprocessing.input("", x) for x in images]))
    for one, row in zip(predictor.predict(images), logits.sigmoid(), strict=True):
        assert [one.probabilities[n] for n in predictor.classes] == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("row", "several", "labels", "label"),
    [
        ([0.2, 0.3, 0.5], False, ("c",), "c"),
        ([0.4, 0.4, 0.2], False, ("a",), "a"),
        ([0.9, 0.1, 0.6], True, ("a", "c"), "a|c"),
        ([0.4, 0.5, 0.1], True, ("b",), "b"),
        ([0.4, 0.2, 0.1], True, (), "|"),
    ],
)
def test_labels_by_hand(row: list[float], several: bool, labels: tuple[str, ...], label: str) -> None:
    classifier = Classifier(cast(Any, None), ("a", "b", "c"), several, 1.0, ImagesConfig())
    found = classifier.prediction("x", torch.tensor(row))
    assert (found.labels, found.label) == (labels, label)
    assert found.probability == pytest.approx(max(row))
    assert isinstance(found, Prediction)


def test_ways_to_a_classifier(tuned: Path, tmp_path: Path) -> None:
    image = torch.rand(3, 40, 50)
    expected = maskery.classifier(tuned).predict(image)
    for to in ("safetensors", "timm"):
        maskery.export(tuned, tmp_path / to, to)
        found = maskery.classifier(tmp_path / to).predict(image)
        assert found[0].probabilities == pytest.approx(expected[0].probabilities, abs=1e-5)
    assert isinstance(maskery.load(tuned), maskery.inference.encoder.Encoder)
    assert trained("probe", size=(24, 40)).to("cpu").predict(image)[0].probability > 1 / 3


def test_what_is_no_classifier_is_one_line(tuned: Path, photos: Path, tmp_path: Path) -> None:
    maskery.export(f"{tuned}#encoder", tmp_path / "encoder")
    two = tmp_path / "finetune"
    two.mkdir()
    (two / "end-seed0").symlink_to(tuned)
    cases: dict[Path, str] = {
        photos: "no classifier: a run of `maskery eval finetune` or `eval probe` is wanted",
        two: "there are: .*finetune/end-seed0",
        tmp_path / "nothing": "no classifier",
        tmp_path / "encoder": "no classifier that Maskery reads: that is a run",
        tmp_path / "encoder" / "model.safetensors": "no classifier that Maskery reads",
    }
    for where, words in cases.items():
        with pytest.raises(ValueError, match=words) as e:
            maskery.classifier(where)
        assert "\n" not in str(e.value)
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({"maskery": {}}))
    with pytest.raises(ValueError, match=r"config\.json|heads"):
        maskery.classifier(tmp_path / "encoder")


def test_the_best_checkpoint_answers(photos: Path, tmp_path: Path) -> None:
    done("finetune", photos, tmp_path, steps=4, keep=1, watch={"best": "top1"}, optim={"base_lr": 0.0})
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best", "step-00000004", "last"}
    best, last = (
        load_file(tmp_path / "checkpoints" / name / "model.safetensors") for name in ("best", "step-00000004")
    )
    assert all(torch.equal(best[name], last[name]) for name in best)  # without a learning rate
    best["head.bias"] = torch.tensor([3.0, -3.0])
    (tmp_path / "checkpoints" / "best" / "model.safetensors").unlink()
    save_file(best, tmp_path / "checkpoints" / "best" / "model.safetensors")
    torch.testing.assert_close(load_objective(tmp_path).head.bias, best["head.bias"])
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    torch.testing.assert_close(load_objective(tmp_path).head.bias, last["head.bias"])


def test_the_chosen_head_answers(photos: Path, tmp_path: Path) -> None:
    done("probe", photos, tmp_path, steps=2, watch={"looks": 0}, settings={"lrs": (1.0, 2.0, 4.0)})
    image = torch.rand(3, 3, 32, 32)
    for where in (tmp_path, tmp_path / "checkpoints" / "step-00000002"):
        with pytest.raises(ValueError, match="not finished: the command of `maskery eval probe` that began it goes on"):
            load_classifier(where)
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / CHOSEN_HEAD).write_text(json.dumps({"head": 2}))
    chosen = load_classifier(tmp_path)
    assert (chosen.classes, chosen.size, chosen.crop_fraction) == (("blue", "red"), (32, 32), 1.0)
    assert chosen.images.mean is not None
    assert not chosen.network.training
    logits, objective = chosen.classify(image), load_objective(tmp_path)
    assert torch.equal(logits, objective.classify(image)[:, 2])
    assert not torch.equal(logits, objective.classify(image)[:, 0])
    assert not logits.requires_grad


def test_a_run_that_classifies_nothing(photos: Path, tmp_path: Path) -> None:
    maskery.pretrain(data=photos, out=tmp_path / "mae", steps=1, **TINY | {"watch": {"looks": 0}})
    with pytest.raises(ValueError, match="a run of mae, which classifies nothing; `maskery eval finetune` makes one"):
        load_classifier(tmp_path / "mae")

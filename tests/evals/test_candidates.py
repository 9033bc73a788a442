from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import maskery
from maskery.config import ImagesConfig
from maskery.evals.candidates import Candidate, candidates_of, open_images_for, reopen_for
from maskery.evals.results import END, RANDOM, START
from maskery.nn.vit import ViT, ViTConfig
from maskery.terminal import Quiet
from maskery.weights.load import load_encoder
from tests.exported import to_timm
from tests.test_train import TINY

SMALL = ViTConfig(48, 2, 3, 8, (16, 24), (0.5,), (0.2,))  # grey, and no square


@pytest.fixture(scope="module")
def runs(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """first: from random weights; second: from first."""
    out = tmp_path_factory.mktemp("beside")
    tiny = TINY | {"watch": {"looks": 0}}
    maskery.pretrain(data=scene_folder, out=out / "first", steps=2, **tiny)
    maskery.pretrain(data=scene_folder, out=out / "second", steps=2, init=str(out / "first"), **tiny)
    return out


def test_what_came_before_comes_first(runs: Path) -> None:
    second = runs / "second"
    assert candidates_of(second, ()) == (Candidate(END, second),)
    assert candidates_of(second, ("timm:vit_x", "start", "random")) == (
        Candidate(RANDOM, None),
        Candidate(START, runs / "first"),
        Candidate(END, second),
        Candidate("timm:vit_x", Path("timm:vit_x")),
    )


def test_a_run_that_started_from_nothing_started_from_random_weights(runs: Path) -> None:
    both = (Candidate(RANDOM, None), Candidate(END, runs / "first"))
    assert candidates_of(runs / "first", ("start",)) == both
    assert candidates_of(runs / "first", ("start", "random")) == both


def test_only_a_run_has_an_end(runs: Path) -> None:
    step = runs / "second" / "checkpoints" / "step-00000002"
    assert candidates_of(step, ("start",)) == (Candidate(START, runs / "first"), Candidate(str(step), step))
    assert candidates_of(Path(f"{runs / 'second'}#size=32x32"), ())[0].label == END
    assert candidates_of(Path("timm:vit_x"), ("random",))[1].label == "timm:vit_x"


def test_names_that_belong_to_a_candidate() -> None:
    names = [candidate.folder for candidate in candidates_of(Path("timm:vit_x"), ("random", "a/b c.pth"))]
    assert names == ["random", "timm-vit_x", "a-b-c.pth"]


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (("start",), "--beside start: w.pth is not a run, so what it started from is not known"),
        (("w.pth",), "--beside names the same twice: w.pth"),
        (("random", "a/b", "a-b"), "--beside names the same twice: a/b, a-b"),
    ],
)
def test_what_cannot_be_compared(beside: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidates_of(Path("w.pth"), beside)


def test_random_weights_follow_from_their_seed_alone() -> None:
    random = Candidate(RANDOM, None)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (random.load(SMALL, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    encoder = random.load(SMALL, 0)
    assert (encoder.config, encoder.training) == (SMALL, False)


def test_fixed_weights_are_loaded(runs: Path) -> None:
    found = Candidate(END, runs / "first").load(SMALL, 0).state_dict()
    assert torch.equal(found["pos_embed"], load_encoder(runs / "first").state_dict()["pos_embed"])


def test_images_are_opened_as_each_network_wants_them(runs: Path, scene_folder: Path, tmp_path: Path) -> None:
    to_timm(ViT(SMALL), tmp_path / "small")
    own, other = load_encoder(runs / "first"), load_encoder(tmp_path / "small")
    opened = open_images_for(own, runs / "first", str(scene_folder), ImagesConfig(holdout=0.2), Quiet())
    again = reopen_for(other, tmp_path / "small", opened)
    assert again.images.source is opened.images.source
    assert (again.images.channels, again.images.min_side, again.images[0].shape) == (1, 48, (32, 32, 1))
    assert (opened.images.channels, opened.images.min_side, opened.images[0].shape) == (3, 64, (32, 32, 3))
    assert np.array_equal(again.held_out, opened.held_out)
    assert (again.config.mean, again.config.bits) == ((0.5,), 8)
    back = reopen_for(own, runs / "first", again)
    assert back.config == replace(opened.config, pages="first")
    assert np.array_equal(back.images[3], opened.images[3])

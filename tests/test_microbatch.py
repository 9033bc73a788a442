"""Micro-batches: cut from what was drawn for the whole batch, so that they change nothing but the memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

import maskery
from maskery import microbatch
from maskery.data.crops import Crop
from maskery.methods import METHODS
from maskery.methods.mae import MAE, MAEConfig
from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViT, ViTConfig
from maskery.objective import Batch, Losses, Objective
from maskery.weights.teacher import build_objective

from .test_train import TINY, assert_same_run, metrics, weights

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
CASES: list[tuple[str, dict[str, Any]]] = [
    ("mae", {}),
    ("rc-mae", {}),
    ("rc-mae", {"teacher_mask": "different"}),
    ("mixed-ae", {}),
    ("mixed-ae", {"mode": "full", "group": 2}),
    ("msa", {"geometry": "shifted"}),
    ("msa", {"align_loss": "infonce", "align_on": "masked", "teacher": "shared"}),
    ("cmt-mae", {"alpha_start": 1.0}),
]


def built(name: str, **settings: Any) -> Objective:
    torch.manual_seed(0)
    teacher = {"teacher": "random:test_vit"} if name == "cmt-mae" else {}
    config = METHODS[name].Config(decoder=DecoderSize(32, 1, 4), **teacher, **settings)
    return build_objective(METHODS[name], config, VIT).train()


def drawn(objective: Objective, images: int) -> Batch:
    torch.manual_seed(1)
    with torch.no_grad():
        return objective.sample({name: torch.rand(images, 3, 32, 32) for name in objective.views(Crop())}, 0.2)


def gradients(objective: Objective, batch: Batch, images: int, size: int) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch and its gradients, as the loop adds them up."""
    objective.zero_grad()
    total = 0.0
    for start in range(0, images, size):
        loss = objective(microbatch.slice_batch(batch, start, size), 0.2)["loss"] * (size / images)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_loss_and_gradients_are_those_of_the_whole_batch(name: str, settings: dict[str, Any]) -> None:
    objective = built(name, **settings)
    batch = drawn(objective, 12)
    loss, whole = gradients(objective, batch, 12, 12)
    for size in (n for n in (6, 4, 2) if n % objective.micro_batch_multiple == 0):
        same, cut = gradients(objective, batch, 12, size)
        assert same == pytest.approx(loss, rel=1e-6)
        assert cut.keys() == whole.keys()
        for parameter, value in cut.items():
            torch.testing.assert_close(value, whole[parameter], rtol=1e-4, atol=1e-6, msg=parameter)


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


@dataclass(frozen=True)
class Choice:
    shift: Tensor
    strength: float


def test_everything_with_tensors_inside_is_cut() -> None:
    x = torch.arange(6.0)
    batch = {"image": x[:, None], "pair": Pair(x, -x), "choice": Choice(x, 0.5), "deep": {"list": [x]}, "alpha": x[0]}
    part = microbatch.slice_batch(batch, 2, 3)
    assert part["image"].tolist() == [[2], [3], [4]]
    assert isinstance(part["pair"], Pair)
    assert part["pair"].other.tolist() == [-2, -3, -4]
    assert part["choice"].shift.tolist() == [2, 3, 4]
    assert part["choice"].strength == 0.5
    assert part["deep"]["list"][0].tolist() == [2, 3, 4]
    assert part["alpha"] == 0


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(ValueError, match=r"'table' in a batch of 6 images has the shape \[4, 2\]"):
        microbatch.slice_batch({"image": torch.zeros(6, 1), "table": torch.zeros(4, 2)}, 0, 3)
    with pytest.raises(ValueError, match="'crop' in a batch is a list_iterator"):
        microbatch.slice_batch({"image": torch.zeros(6, 1), "crop": iter([1])}, 0, 3)


def test_sizes_that_are_tried() -> None:
    assert microbatch.sizes(96, built("mae")) == [96, 48, 24, 12, 6, 3, 1]
    assert microbatch.sizes(100, built("mae")) == [100, 50, 25, 10, 5, 2, 1]
    assert microbatch.sizes(96, built("mixed-ae")) == [96, 48, 24, 12, 4]
    with pytest.raises(ValueError, match="batch of 90 images: the method needs a multiple of 4"):
        microbatch.check_batch(90, built("mixed-ae"))


def test_a_number_is_a_limit() -> None:
    assert microbatch.size_up_to(1000, 96, built("mae")) == 96
    assert microbatch.size_up_to(40, 96, built("mae")) == 32
    with pytest.raises(ValueError, match=r"--micro-batch 3: no number .* divides .* 96 images .* multiple of 4"):
        microbatch.size_up_to(3, 96, built("mixed-ae"))


def test_a_loss_over_the_whole_batch_is_never_cut() -> None:
    objective = built("msa", align="mean", align_loss="infonce")
    assert microbatch.sizes(16, objective) == [16]
    assert microbatch.size_up_to(16, 16, objective) == 16
    with pytest.raises(ValueError, match=r"--micro-batch 8 is less than .* 16 images, and this .* compares all"):
        microbatch.size_up_to(8, 16, objective)


class Full(torch.autograd.Function):
    """Runs out of memory where a network usually does: on the way back, with some gradients there already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no room")


class Tight(Objective):
    """MAE on a device with room for `ROOM` images a forward and backward."""

    Config = MAEConfig
    ROOM = 5
    encoders = ("inner.encoder.",)
    tried: list[int]

    def __init__(self, config: MAEConfig, vit: ViTConfig):
        super().__init__()
        self.inner, self.tried = MAE(config, vit), TRIED

    @property
    def encoder(self) -> ViT:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.encoder

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def sample(self, batch: Batch, t: float) -> Batch:
        return self.inner.sample(batch, t)

    def forward(self, batch: Batch, t: float) -> Losses:
        if not torch.is_grad_enabled():
            return self.inner(batch, t)
        TRIED.append(len(batch["image"]))
        if len(batch["image"]) > self.ROOM:
            return {"loss": self.inner({**batch, "image": Full.apply(batch["image"].requires_grad_())}, t)["loss"]}
        return self.inner(batch, t)

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        return self.inner.picture(batch)


TRIED: list[int] = []


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "tight", Tight)
    TRIED.clear()


@pytest.mark.usefixtures("tight")
def test_auto_halves_until_it_fits_and_leaves_no_trace(
    scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = TINY | {"data": scene_folder, "method": "tight", "steps": 4, "save": {"every": 1, "keep": 0}}
    found, told, roomy = (tmp_path / name for name in ("found", "told", "roomy"))
    maskery.pretrain(out=found, **leaves)
    assert TRIED[:4] == [16, 8, 4, 4]  # 4 fits: the second of them finds the first one's gradients in memory
    assert TRIED[4:] == [4] * 16
    maskery.pretrain(out=told, micro_batch=4, **leaves)
    assert_same_run(found, told)
    assert "micro-batches of 4 images: 4 of them" in (found / "train.log").read_text()
    assert yaml.safe_load((found / "config.yaml").read_text())["micro_batch"] == 4

    TRIED.clear()
    for step in (3, 4):
        (found / "checkpoints" / f"step-{step:08d}").rename(tmp_path / f"{step}")
    maskery.resume(found)
    assert TRIED == [4] * 8  # two steps and no search
    assert_same_run(found, told)

    monkeypatch.setattr(Tight, "ROOM", 1000)
    maskery.pretrain(out=roomy, **leaves)
    for one, other in zip(metrics(found), metrics(roomy), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.usefixtures("tight")
def test_when_nothing_fits(scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tight, "ROOM", 0)
    with pytest.raises(ValueError, match=r"out of memory with a micro-batch of 1, the smallest .*--batch-size"):
        maskery.pretrain(data=scene_folder, out=tmp_path / "run", method="tight", steps=2, **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tight")
def test_what_was_asked_for_and_does_not_fit(scene_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"out of memory in step 1 with a micro-batch of 8 .* --micro-batch 4$"):
        maskery.pretrain(data=scene_folder, out=tmp_path / "run", method="tight", steps=2, micro_batch=8, **TINY)


def test_micro_batches_change_nothing_of_a_run(scene_folder: Path, tmp_path: Path) -> None:
    runs = []
    for size in (16, 4):
        maskery.pretrain(data=scene_folder, out=tmp_path / f"{size}", steps=12, micro_batch=size, **TINY)
        runs.append([facts["loss"] for facts in metrics(tmp_path / f"{size}") if "loss" in facts])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    one, other = (weights(tmp_path / size, "optimizer.safetensors") for size in ("16", "4"))
    for name, value in one.items():  # AdamW steps as far with gradients of any scale, but its averages tell
        torch.testing.assert_close(other[name], value, rtol=0.02, atol=0.01 * float(value.abs().max()), msg=name)

import shutil
from pathlib import Path

import pytest
import torch

import maskery
from maskery import checkpoint
from maskery.checkpoint import State
from maskery.config import WatchConfig
from maskery.optim import optimizer_of
from maskery.runs import best
from maskery.runs.directory import RunDirectory
from tests.tasks.images import two_colours
from tests.tasks.runs import done
from tests.test_train import assert_same_run, metrics


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_colours(tmp_path_factory.mktemp("images") / "colours", {"train": 12, "val": 8})


def looks(*values: float) -> list[dict[str, float]]:
    return [{"step": i, "epoch": 0.0, "top1": value, "loss_of_it": 0.0} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "new", "enough"),
    [
        ((0.1,), True, False),
        ((0.1, 0.2), True, False),
        ((0.2, 0.2), False, False),
        ((0.1, 0.2, 0.2), False, False),
        ((0.1, 0.2, 0.1, 0.2), False, True),
        ((0.3, 0.2, 0.1), False, True),
        ((0.3, 0.2, 0.4), True, False),
    ],
)
def test_the_first_of_equal_ones_is_the_best(values: tuple[float, ...], new: bool, enough: bool) -> None:
    assert best.compare_to_best(looks(*values), WatchConfig(best="top1", patience=2)) == (new, enough)
    assert best.compare_to_best(looks(*values), WatchConfig(best="top1")) == (new, False)
    assert best.compare_to_best(looks(*values), WatchConfig(patience=1)) == (False, False)


def test_a_number_that_no_look_has() -> None:
    with pytest.raises(ValueError, match=r"--watch\.best top: looks have no such number; they have: loss_of_it, top1$"):
        best.compare_to_best(looks(0.1), WatchConfig(best="top"))
    with pytest.raises(ValueError, match="they have: none"):
        best.compare_to_best([{"step": 0, "epoch": 0.0}], WatchConfig(best="top1"))


def test_the_best_stays_when_others_are_pruned(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    for step in range(1, 6):
        with torch.no_grad():
            net.bias.fill_(step)
        checkpoint.save(tmp_path, net, optimizer_of(net), State(step, {}, 0, ""), "seed: 0\n")
        checkpoint.prune(tmp_path, 2)
        if step in (2, 3):
            best.write_best(tmp_path, step)
        (tmp_path / ".writing-best").mkdir(exist_ok=True)  # as a killed process leaves it
    assert {p.name for p in tmp_path.iterdir()} == {
        "best",
        "last",
        "step-00000004",
        "step-00000005",
        ".writing-best",
    }
    assert checkpoint.check(tmp_path / "best") is None
    assert float(checkpoint.objective_state(tmp_path / "best")["bias"][0]) == 3
    restored = checkpoint.restore(tmp_path, net, optimizer_of(net))
    assert restored is not None
    assert restored.state.step == 5  # going on is from the newest, not from the best
    assert RunDirectory(tmp_path.parent).best is None


def test_a_run_keeps_its_best_look_and_ends_when_patience_does(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a learning rate the first look is the best; with two of patience the third one ends it."""
    leaves = {
        "watch": {"looks": 8, "best": "top1", "patience": 2, "pictures": 0},
        "optim": {"base_lr": 0.0},
        "steps": 16,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    made = done("finetune", colours, whole, keep=2, **leaves)
    assert (made.step, made.steps, made.stopped) == (4, 16, False)
    assert [look["step"] for look in made.looks] == [0, 2, 4]
    kept = {p.name for p in (whole / "checkpoints").iterdir()}
    assert kept == {"best", "last", "step-00000003", "step-00000004"}
    assert RunDirectory(whole).best == whole / "checkpoints" / "best"
    assert checkpoint.check(whole / "checkpoints" / "best") is None
    assert '"step": 0' in (whole / "checkpoints" / "best" / "state.json").read_text()
    assert "stopped after step 4: 2 looks without a better top1" in capsys.readouterr().err
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000004")  # as if it had ended between two looks
    assert maskery.resume(broken).step == 4
    assert_same_run(whole, broken)
    assert maskery.resume(broken).step == 4  # and it stays ended
    assert_same_run(whole, broken)


def test_what_is_best_later_takes_the_place_of_what_was(colours: Path, tmp_path: Path) -> None:
    leaves = {"steps": 24, "batch_size": 16, "optim": {"base_lr": 1.0, "weight_decay": 0.0}}
    made = done("probe", colours, tmp_path, watch={"looks": 24, "best": "top1", "patience": 3, "pictures": 0}, **leaves)
    values = [look["top1"] for look in made.looks]
    first = values.index(max(values))
    assert first > 0
    assert max(values) > values[0]
    assert made.step == first + 3 < 24
    assert f'"step": {first}' in (tmp_path / "checkpoints" / "best" / "state.json").read_text()
    assert metrics(tmp_path)[-1]["step"] == made.step

"""Options of a comparison: labels, options of one method, budgets, {seed} and {out}."""

import os
from pathlib import Path

import pytest
import torch

from maskery.commands.compare_options import Budget, Variant, parse_plan
from maskery.commands.pretrain import base_run, parse_options
from maskery.config import Run, dump
from maskery.methods import METHODS
from maskery.methods.mae import MAEConfig
from maskery.methods.rc_mae import RCMAEConfig
from maskery.nn.decoder import DecoderSize
from maskery.options import UsageError, options
from maskery.terminal import Quiet
from tests.test_train import TINY

FEW = ["--data", "d", "--out", "o"]


@pytest.fixture
def few(scene_folder: Path, tmp_path: Path) -> list[str]:
    return options(TINY | {"data": str(scene_folder), "out": str(tmp_path / "out"), "steps": 4})


def runs(args: list[str]) -> dict[tuple[str, int], Run]:
    return parse_plan(args).runs(torch.device("cpu"))[0]


def test_labels_and_their_options() -> None:
    own = "--loose.gamma=0.1 --epochs 3 --loose.teacher_mask different"
    plan = parse_plan([*FEW, "--methods", "mae, loose=rc-mae", *own.split()])
    assert plan.variants == (
        Variant("mae", "mae", ()),
        Variant("loose", "rc-mae", ("--settings.gamma=0.1", "--settings.teacher_mask", "different")),
    )
    assert plan.common == ("--data", "d", "--epochs", "3")
    assert plan.seeds == (0, 1, 2)
    assert plan.budget is None


def test_dots_in_values_are_no_sections() -> None:
    plan = parse_plan(["--data=../d.1/x", "--out=o", "--methods", "mae", "--budget=time:0.5s", "--mae.mask-ratio=0.5"])
    assert plan.budget == Budget("time", 0.5)
    assert plan.common == ("--data=../d.1/x",)
    assert plan.variants[0].settings == ("--settings.mask-ratio=0.5",)


def test_seeds_begin_with_seed() -> None:
    assert parse_plan([*FEW, "--methods", "mae", "--seed", "7", "--seeds", "2"]).seeds == (7, 8)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("epochs:100", Budget("epochs", 100)),
        ("epochs:0.5", Budget("epochs", 0.5)),
        ("time:90s", Budget("time", 90)),
        ("time:20m", Budget("time", 1200)),
        ("time:1.5h", Budget("time", 5400)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_plan([*FEW, "--methods", "mae", "--budget", text]).budget == budget


def test_time_becomes_steps(few: list[str]) -> None:
    """Equal time: twice as slow a step, half as many of them; never none."""
    run = next(iter(runs([*few, "--methods", "mae", "--seeds", "1"]).values()))
    budget = Budget("time", 60)
    assert [budget.apply(run, s).steps for s in (0.5, 1.0, 0.07, 900.0)] == [120, 60, 857, 1]
    assert budget.apply(run, 0.5).epochs is None
    epochs = Budget("epochs", 2.5).apply(run)
    assert (epochs.epochs, epochs.steps) == (2.5, None)


def test_runs_differ_in_method_settings_and_seed_only(few: list[str]) -> None:
    own = "--methods mae,rc-mae,loose=rc-mae --seeds 2 --loose.gamma 0.{seed} --rc-mae.no-norm-pix"
    made = runs([*few, *own.split()])
    assert list(made) == [(label, seed) for seed in (0, 1) for label in ("mae", "rc-mae", "loose")]
    assert made["loose", 0].settings.gamma == 0.0
    assert made["loose", 1].settings.gamma == 0.1
    assert made["rc-mae", 0].settings.norm_pix is False
    assert made["loose", 0].settings.norm_pix is True
    assert made["loose", 0].settings.decoder == made["mae", 0].settings.decoder
    assert made["mae", 0].settings.decoder.dim == 32
    for (label, seed), run in made.items():
        other = made["mae", 0]
        assert run.seed == seed
        assert run.method == ("mae" if label == "mae" else "rc-mae")
        for part in ("data", "model", "patch_size", "size", "batch_size", "optim", "crop", "images", "watch", "epochs"):
            assert getattr(run, part) == getattr(other, part)


def test_the_suggested_run_is_that_of_pretrain_for_every_method(scene_folder: Path) -> None:
    args = ["--data", str(scene_folder), "--image-size", "32"]
    made = runs([*args, "--out", "o", "--methods", "mae,rc-mae", "--seeds", "1"])
    for label, run in made.items():
        own = [*args, "--method", label[0]]
        base = base_run(parse_options(own), own, torch.device("cpu"), Quiet())[0].run
        assert run.settings == base.settings
        assert (run.model, run.batch_size, run.epochs) == (base.model, base.batch_size, base.epochs)


def test_what_a_config_set_for_every_mae_is_the_same_for_all_methods(scene_folder: Path, tmp_path: Path) -> None:
    settings = RCMAEConfig(mask_ratio=0.5, gamma=3.0, decoder=DecoderSize(32, 1, 4))
    sizes = {"model": "vit-micro", "patch_size": 8, "image_size": 32, "batch_size": 16, "steps": 9}
    (tmp_path / "run.yaml").write_text(dump(Run(settings, data=str(scene_folder), method="rc-mae", **sizes)))
    made = runs(["--config", str(tmp_path / "run.yaml"), "--out", "o", "--methods", "rc-mae,mae", "--seeds", "1"])
    assert made["rc-mae", 0].settings == settings
    assert made["mae", 0].settings == MAEConfig(mask_ratio=0.5, decoder=DecoderSize(32, 1, 4))
    assert made["mae", 0].steps == 9


def test_seed_and_out_in_values() -> None:
    plan = parse_plan([*FEW, "--methods", "mae,rc-mae"])
    placed = plan.fill_in(["--settings.teacher", "{out}/mae-seed{seed}"], 2)
    assert placed == ["--settings.teacher", os.path.abspath("o") + "/mae-seed2"]


@pytest.mark.parametrize(
    ("methods", "value", "words"),
    [
        ("rc-mae,mae", "{out}/mae-seed{seed}", "mae-seed0 is not made before rc-mae-seed0; it is the first run"),
        ("mae,rc-mae", "{out}/rc-mae-seed{seed}", "made before rc-mae-seed0; runs before it: mae-seed0"),
        ("mae,rc-mae", "{out}/mae-seed1", "mae-seed1 is not made before"),
        ("mae,rc-mae", "{out}/made-seed0/checkpoints", "made-seed0 is not made before"),
    ],
)
def test_a_run_can_only_speak_of_earlier_ones(few: list[str], methods: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        runs([*few, "--methods", methods, "--seeds", "2", "--rc-mae.teacher-mask", value])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--data d --out o", f"--methods is missing: some of {', '.join(METHODS)}"),
        ("--out o --methods mae", "--data is missing"),
        ("--data d --methods mae", "--out is missing: the directory of the comparison"),
        ("--methods mae,rc-mea", "there is no method 'rc-mea'; did you mean rc-mae?"),
        ("--methods mae,x=mea", "there is no method 'mea'"),
        ("--methods mae,mae", "mae is named twice; LABEL=METHOD"),
        ("--methods x-y=mae,X_Y=rc-mae", "X_Y is named twice (as x-y)"),
        ("--methods ../x=mae", "the label '../x' has to consist of letters"),
        ("--methods =mae", "the label '' has to consist of letters"),
        ("--methods optim=mae", "optim cannot be a label"),
        ("--methods mae --rc-mae.gamma 1", "there is no method or section of options 'rc-mae'; did you mean mae?"),
        ("--methods mae --optim.bas-lr 1", "did you mean --optim.base-lr?"),
        ("--methods mae --method rc-mae", "did you mean --methods?"),
        ("--data d --out o --methods mae --seeds 0", "--seeds is 0: it has to be at least 1"),
        ("--methods mae --budget time:90", "--budget is 'time:90': epochs:100, time:90s"),
        ("--methods mae --budget epochs:0", "above 0"),
        ("--methods mae --budget steps:9", "is expected"),
        ("--data d --out o --methods mae --budget epochs:9 --steps 3", "--budget epochs:9 and --steps 3: give one of"),
    ],
)
def test_what_cannot_be_parsed(args: str, words: str) -> None:
    with pytest.raises(UsageError) as e:
        parse_plan(args.split())
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ("mae --mae.gamma 1", UsageError, "mae: Unrecognized options: --mae.gamma"),
        ("mae,x=rc-mae --x.gama 1", UsageError, "did you mean --x.gamma?"),
        ("mae,x=rc-mae --settings.gamma 1", UsageError, "mae: Unrecognized options: --settings.gamma"),
        ("mae,x=mae --x.mask-ratio 0.99", ValueError, "x: mask ratio 0.99 leaves 0 of 16"),
        ("mae --model vit-smal", UsageError, "did you mean vit-small?"),
        ("mae --batch-size 0", UsageError, "--batch-size is 0"),
    ],
)
def test_every_run_is_checked_as_pretrain_does(few: list[str], args: str, error: type, words: str) -> None:
    with pytest.raises(error) as e:
        runs([*few, "--methods", *args.split()])
    assert words in str(e.value)
    assert "\n" not in str(e.value)

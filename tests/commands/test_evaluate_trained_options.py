"""Options of the evaluations that train: where their runs lie, and what is no option of theirs."""

from pathlib import Path

import pytest

from maskery.commands.evaluate_trained_options import HIDDEN, TaskCommand
from maskery.config import Run
from maskery.options import UsageError
from maskery.tasks import TASKS


def parse(*args: str) -> TaskCommand:
    return TaskCommand.parse("finetune", ["--data", "d", *args])


@pytest.mark.parametrize(
    ("args", "name"),
    [([], "finetune"), (["--shots", "5"], "finetune-5-shots"), (["--labels", "1%"], "finetune-1percent")],
)
def test_runs_lie_in_the_run_that_is_evaluated(args: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert parse("--where", str(tmp_path), *args).out == tmp_path / "evals" / name
    assert parse("--where", str(tmp_path), *args, "--out", "o").out == Path("o")


def test_options_replace_what_a_recipe_says() -> None:
    args = ["--epochs", "3", "--settings.mixup", "0.5", "--seed", "4", "--seeds", "2"]
    command = parse("--where", "w", "--out", "o", *args)
    run = command.apply_to(Run(TASKS["finetune"].Config(), steps=100, batch_size=64))
    assert (run.epochs, run.steps, run.batch_size, run.settings.mixup) == (3, None, 64, 0.5)
    assert command.seeds == range(4, 6)


@pytest.mark.parametrize("name", HIDDEN[Run])
def test_what_the_weights_decide_is_no_option(name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UsageError, match=f"Unrecognized options: {option}"):
        parse("--where", "w", "--out", "o", option, "16")


def test_the_help_has_no_hidden_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "--image-size" in shown
    assert "--settings.mixup" in shown
    assert not any(f"--{name.replace('_', '-')} " in shown for name in HIDDEN[Run])

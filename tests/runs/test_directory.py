import shutil
from pathlib import Path

import pytest
import torch
import yaml

import maskery
from maskery.config import Run
from maskery.runs.directory import RunDirectory, is_run, open_run, open_tolerantly, read_config
from tests.test_train import TINY

STEPS = 2


@pytest.fixture(scope="module")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=STEPS, save={"every": 1}, **TINY)
    return out


def test_a_run_and_its_checkpoints(run: Path, tmp_path: Path) -> None:
    directory = open_run(run)
    assert directory.run == read_config(run / "config.yaml")
    assert directory.newest == run / "checkpoints" / (directory.last or "")
    assert directory.state(directory.newest)["step"] == STEPS
    assert (directory.best, directory.chosen_head, directory.evaluations) == (None, None, ())
    first = open_run(run / "checkpoints" / "step-00000001")
    assert (first.path, first.run) == (run, directory.run)
    first, last = (d.tensors()["decoder.pred.weight"] for d in (first, directory))
    assert not torch.equal(first, last)
    assert directory.damaged() == [*directory.missing()] == []
    assert [is_run(place) for place in (run, run / "checkpoints" / "step-00000002", tmp_path)] == [True, True, False]


def test_another_version_whenever_a_file_is_new(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    versions = [directory.version(), directory.version()]
    assert versions[0] == versions[1]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write("{}\n")
    assert directory.version() != versions[0]


def test_a_damaged_configuration_is_taken_from_a_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("{")
    messages: list[str] = []
    assert open_run(tmp_path / "run", messages.append).run == read_config(run / "config.yaml")
    assert len(messages) == 1
    assert "config.yaml: damaged in line 1" in messages[0]
    assert "; taking " in messages[0]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="damaged in line"):
        open_run(tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint can be used yet"):
        RunDirectory(tmp_path / "run").tensors()
    directory = open_tolerantly(tmp_path / "run")
    assert directory.config_values == {}
    assert next(directory.missing()).startswith("The configuration cannot be read: ")


def test_damage_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text('{"device": ')
    (tmp_path / "run" / "evals" / "chosen.json").write_text("[]")
    (tmp_path / "run" / "skipped.jsonl").write_text('{"name": "a", "reason": "b"}\n{"name"\n{"name": "c"')
    directory = open_tolerantly(tmp_path / "run")
    assert directory.environment == {}
    assert directory.damaged() == ["environment.json", "evals/chosen.json"]
    assert "environment.json is damaged and left out." in [*directory.missing()]
    assert directory.skipped == ((("a", "b"),), 1)
    for file in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"no checkpoint can be used: step-0+2: model.safetensors has .*; step-0+1: "):
        open_run(tmp_path / "run").tensors()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"method": "mea"}, "there is no method 'mea'; there are: .*mae"),
        ({"optim": {"base_lrs": 1}}, "did you mean --optim.base-lr"),
    ],
)
def test_what_is_no_configuration(tree: dict[str, object], words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=words) as e:
        read_config(tmp_path / "config.yaml")
    assert str(e.value).startswith(f"{tmp_path / 'config.yaml'}: ")
    assert "\n" not in str(e.value)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such run"):
        open_tolerantly(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither config\.yaml nor metrics\.jsonl"):
        open_tolerantly(tmp_path)
    (tmp_path / "config.yaml").write_text("data: photos")
    assert isinstance(read_config(tmp_path / "config.yaml"), Run)

"""Two gloo processes: shared-out parameters give the numbers of whole copies, and any number of processes goes on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import maskery
from maskery import checkpoint, sharding
from maskery.checkpoint import State
from maskery.commands.evaluate_trained import evaluate
from maskery.methods import METHODS
from maskery.optim import optimizer_of
from maskery.runs.directory import open_run

from .test_microbatch import built, drawn
from .test_train import metrics
from .two_processes import PROBE, STEPS, interrupted

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.two_processes"]


def stepped(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint that one process wrote after two steps: its tensors, and the optimiser's."""
    objective = built("rc-mae")
    optimizer = optimizer_of(objective)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for _ in range(2):
        objective(drawn(objective, 4), 0.0)["loss"].backward()
        optimizer.step()
        objective.after_step(0.5)
    path = checkpoint.save(folder, objective, optimizer, State(2, {"loss": 0.5}, 3, "images"), "seed: 0\n")
    kept = sharding.read_full(path, lambda name: "/" in name)
    return {name: value.clone() for name, value in objective.state_dict().items()}, kept


@pytest.fixture(scope="module")
def runs(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything two processes made, in one launch: starting them takes longer than what they do."""
    out = tmp_path_factory.mktemp("two")
    stepped(out / "alone")
    command = [sys.executable, *LAUNCH, str(out), str(scene_folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def losses(run: Path) -> list[float]:
    return [facts["loss"] for facts in metrics(run) if "loss" in facts]


@pytest.mark.parametrize("method", METHODS)
def test_shared_out_or_in_copies_the_numbers_are_the_same(runs: Path, method: str) -> None:
    copies, shared = runs / f"{method}-copies", runs / f"{method}-shared"
    assert len(losses(copies)) == STEPS
    assert losses(shared) == pytest.approx(losses(copies), rel=1e-5)
    one, other = open_run(copies).tensors(), open_run(shared).tensors()
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_teachers_move_and_frozen_ones_are_not_saved(runs: Path) -> None:
    first, last = (open_run(runs / "rc-mae-shared" / "checkpoints" / f"step-{s:08d}").tensors() for s in (1, STEPS))
    assert not torch.equal(first["teacher.net.decoder.pred.weight"], last["teacher.net.decoder.pred.weight"])
    names = open_run(runs / "cmt-mae-shared").tensors().keys()
    assert any(name.startswith("momentum.net.") for name in names)
    assert not any(name.startswith("teacher.") for name in names)


def test_what_a_checkpoint_is_made_of(runs: Path) -> None:
    """A file for each process, of about half the tensors, with digests, and no pickle."""
    path = runs / "mae-shared" / "checkpoints" / f"step-{STEPS:08d}"
    files = sorted(p.name for p in path.iterdir())
    assert files == ["config.yaml", sharding.file_of(0), sharding.file_of(1), "state.json"]
    assert sorted(json.loads((path / "state.json").read_text())["files"]) == files[:3]
    sizes = [(path / sharding.file_of(rank)).stat().st_size for rank in (0, 1)]
    assert max(sizes) < 0.6 * sum(sizes)
    assert (runs / "mae-shared" / "checkpoints" / "last").read_text() == f"{path.name}\n"


def test_going_on_with_as_many_processes_changes_nothing(runs: Path) -> None:
    assert metrics(runs / "rc-mae-resumed") == metrics(runs / "rc-mae-shared")
    one, other = (runs / f"rc-mae-{name}" / "checkpoints" / f"step-{STEPS:08d}" for name in ("shared", "resumed"))
    assert equal(sharding.read_full(one, lambda name: True), sharding.read_full(other, lambda name: True))


def test_what_one_wrote_two_read_and_what_two_wrote_one_reads(runs: Path, tmp_path: Path) -> None:
    """The weights and the optimiser's averages at resume, bit for bit: one -> two -> one."""
    wanted, kept = stepped(tmp_path / "again")
    path = runs / "two" / "step-00000002"
    assert equal(checkpoint.objective_state(path), wanted)
    assert equal(sharding.read_full(path, lambda name: "/" in name), kept)
    objective = built("rc-mae")
    torch.nn.init.zeros_(objective.encoder.blocks[0].mlp.fc1.weight)
    optimizer = optimizer_of(objective)
    loaded = checkpoint.restore(runs / "two", objective, optimizer)
    assert loaded is not None
    assert loaded.state == State(2, {"loss": 0.5}, 3, "images")
    assert equal(dict(objective.state_dict()), wanted)
    names = {p: name for name, p in objective.named_parameters()}
    averages = {f"{key}/{names[p]}": v for p, state in optimizer.state.items() for key, v in state.items()}
    assert equal(averages, kept)


def test_one_process_goes_on_with_a_run_of_two(runs: Path, tmp_path: Path) -> None:
    """Its masks are other ones, as they depend on the process; everything else is the run's."""
    out = tmp_path / "run"
    interrupted(runs / "rc-mae-shared", out, STEPS - 1)
    assert maskery.resume(out).step == STEPS
    assert losses(out)[:-1] == losses(runs / "rc-mae-shared")[:-1]
    assert losses(out)[-1] == pytest.approx(losses(runs / "rc-mae-shared")[-1], rel=0.05)
    assert "one process alone: parameters are not sharded" in (out / "train.log").read_text()
    assert (out / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").exists()


def test_every_verb_reads_it_as_one_network(runs: Path, scene_folder: Path, tmp_path: Path) -> None:
    run, path = runs / "mae-shared", runs / "mae-shared" / "checkpoints" / f"step-{STEPS:08d}"
    encoder = maskery.load(run)
    assert equal(dict(encoder.state_dict()), dict(maskery.load(path).state_dict()))
    from maskery.commands.embed import embed
    from maskery.commands.export import export

    export(run, to="timm", out=tmp_path / "timm")
    assert equal(dict(maskery.load(tmp_path / "timm").state_dict()), dict(encoder.state_dict()))
    embed(run, data=str(scene_folder), out=tmp_path / "features.parquet")
    assert (tmp_path / "features.parquet").exists()


def test_looks_are_those_of_whole_copies(runs: Path) -> None:
    one, other = ([f for f in metrics(runs / f"looks-{name}") if "loss" not in f] for name in ("copies", "shared"))
    assert len(one) == 3
    for copies, shared in zip(one, other, strict=True):
        assert shared == pytest.approx(copies, rel=1e-4)


@pytest.mark.parametrize("name", ["copies", "shared"])
def test_micro_batches_of_two_processes(runs: Path, name: str) -> None:
    assert losses(runs / f"cut-{name}") == pytest.approx(losses(runs / f"mae-{name}"), rel=1e-5)


def test_gradients_travel_once_a_step_however_many_micro_batches(runs: Path) -> None:
    one, four = json.loads((runs / "exchanges.json").read_text())
    assert one == four
    assert one >= STEPS


def test_bf16_shared_out(runs: Path) -> None:
    """What travels in bf16 is what autocast would have rounded anyway; sums of gradients are float32."""
    assert losses(runs / "bf16-shared") == pytest.approx(losses(runs / "bf16-copies"), rel=5e-3)
    state = open_run(runs / "bf16-shared").tensors()
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_a_disk_that_is_full_for_one_process_fails_for_both(runs: Path) -> None:
    words = json.loads((runs / "full-disk.json").read_text())
    assert all("step-00000009: cannot write the checkpoint" in word for word in words)
    assert all("step-00000002 is still good" in word for word in words)
    assert sorted(p.name for p in (runs / "two").iterdir()) == ["last", "step-00000002"]
    assert checkpoint.check(runs / "two" / "step-00000002") is None


def test_what_one_process_cannot_do_fails_for_both(runs: Path) -> None:
    words = json.loads((runs / "blocked.json").read_text())
    assert all("step-00000009: cannot write the checkpoint" in word for word in words), words


def test_processes_agree_on_the_micro_batch(runs: Path) -> None:
    first, second = json.loads((runs / "tried.json").read_text())
    assert first[:3] == second[:3] == [8, 4, 4]  # whole, then two halves: the second finds gradients in memory
    assert first[3:] == second[3:] == [4] * 2 * STEPS
    assert "micro_batch: 4\n" in (runs / "tight" / "config.yaml").read_text()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_part_is_named_and_the_one_before_is_taken(runs: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "checkpoints"
    shutil.copytree(runs / "mae-shared" / "checkpoints", out)
    file = out / f"step-{STEPS:08d}" / sharding.file_of(1)
    file.write_bytes(file.read_bytes()[:-10]) if damage == "truncated" else file.unlink()
    good, damaged = checkpoint.newest_good(out)
    assert good is not None
    assert good.name == f"step-{STEPS - 1:08d}"
    assert sharding.file_of(1) in damaged[0]


def test_of_another_network(runs: Path) -> None:
    objective = built("mae")
    with pytest.raises(ValueError, match="does not belong to the network"):
        checkpoint.restore(runs / "two", objective, optimizer_of(objective))


def test_alone_nothing_can_be_shared_out(scene_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--shard needs several processes: torchrun"):
        maskery.pretrain(data=scene_folder, out=tmp_path / "run", shard=True, steps=1)


def test_a_probe_normalises_by_the_whole_batch_wherever_its_images_are(
    runs: Path, scene_folder: Path, tmp_path: Path
) -> None:
    evaluate("probe", where=runs / "mae-copies", data=scene_folder, out=tmp_path, **PROBE)
    (name,) = (p.name for p in (runs / "probed").iterdir())
    assert json.loads((runs / "probed" / name / "environment.json").read_text())["processes"] == 2
    one, two = open_run(tmp_path / name).tensors(), open_run(runs / "probed" / name).tensors()
    assert float((one["var"] - 1).abs().max()) > 0.1
    for part, value in one.items():
        torch.testing.assert_close(two[part], value, rtol=1e-4, atol=1e-6, msg=part)
    results = [
        json.loads((place / name / "evals" / "result.json").read_text()) for place in (tmp_path, runs / "probed")
    ]
    assert results[0]["numbers"] == pytest.approx(results[1]["numbers"], abs=1e-4)

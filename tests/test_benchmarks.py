"""What benchmarks count by hand is what is computed."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import maskery
from benchmarks import gpu, gpu_parts, loading, step
from benchmarks.count import per_image
from benchmarks.methods import TEACHERS, built, predicted, vit_of
from benchmarks.peers import PEERS, installed, parameters
from benchmarks.step import Case, ours
from maskery.demo import scenes
from maskery.methods import METHODS
from maskery.nn import attention
from maskery.recipes import DECODERS


@pytest.mark.parametrize("name", METHODS)
def test_operations_are_counted_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KERNELS", [SDPBackend.MATH])
    case = Case("vit-micro", 8, 64, 4)
    objective = built(name, case).train()
    batch = {"image": torch.rand(case.batch, 3, case.pixels, case.pixels)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # others are not counted on a CPU
        objective(objective.sample(batch, 0.5), 0.5)["loss"].backward()
    mae = per_image(vit_of(case), DECODERS[case.model])["mae"]
    assert counter.get_total_flops() / case.batch == pytest.approx(predicted(case)[name] * mae, rel=0.025)


def test_paper_ratios_at_base_size() -> None:
    ratios = predicted(Case("vit-base", 16, 224, 1))
    assert ratios["rc-mae"] == pytest.approx(4 / 3)
    assert ratios["mixed-ae"] == pytest.approx(1.007, abs=1e-3)
    assert TEACHERS["vit-base"][0] == "vit_base_patch16_224"


# --------------------------------------------------------------------------------- the GPU's, at a tiny size
def test_a_jobs_row() -> None:
    row = gpu_parts.measure(torch.device("cpu"), gpu_parts.TINY_JOBS[0], 1e12)
    assert row["images_per_second"] > 0
    case = Case.of(gpu_parts.TINY)
    flop = per_image(vit_of(case), DECODERS[case.model])["mae"]
    assert row["mfu"] == pytest.approx(row["images_per_second"] * flop / 1e12, abs=1e-4)


def broken(device: torch.device) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    raise RuntimeError("no such\nkernel")


def crashes(device: torch.device) -> dict[str, Any]:
    os._exit(7)


def hangs(device: torch.device, seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"slept": seconds}


def test_what_fails_or_is_not_reached_is_said_and_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    results = gpu.Results(path, {"device": "this one"}, time.monotonic() + 1000)
    worker = gpu.Worker(torch.device("cpu"))
    for job, function, arguments, needs, limit in (
        ("a", broken, (), 0, 90),
        ("b", crashes, (), 0, 90),
        ("c", hangs, (0.0,), 0, 90),
        ("d", hangs, (1000.0,), 0, 0.1),
        ("e", hangs, (0.0,), 2000, 90),
    ):
        results.measure(worker, gpu.Task("steps", {"job": job}, function, arguments, needs, limit))
    assert json.loads(path.read_text())["steps"] == [
        {"job": "a", "first": 1},
        {"job": "a", "error": "RuntimeError: no such kernel"},
        {"job": "b", "error": "the process ended with exit code 7"},
        {"job": "c", "slept": 0.0},
        {"job": "d", "error": "no answer within 0 s"},
    ]
    assert results.facts["not_reached"] == [{"part": "steps", "job": "e"}]


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly", None)
    assert installed("lightly", Case.of(gpu_parts.TINY)) is None
    with pytest.raises(ImportError, match="not installed"):
        gpu_parts.stepping(gpu_parts.Job("lightly", gpu_parts.TINY, "eager"), torch.device("cpu"))


def test_peers_are_the_same_network() -> None:
    case = Case.of("vit-micro/8@32x2")
    for name in PEERS:
        if peer := installed(name, case):
            net, loss = peer
            assert parameters(net) == pytest.approx(parameters(ours(case)), rel=0.005)
            loss(net, torch.rand(2, 3, 32, 32)).backward()


def test_photographs_are_made_once_and_for_all(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        gpu_parts.photograph(str(tmp_path / folder / "3" / "000013.jpg"))
    one, other = (tmp_path / folder / "3" / "000013.jpg" for folder in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as image:
        assert image.mode == "RGB"
        assert 333 <= min(image.size) <= max(image.size) <= 640
    assert 20_000 < one.stat().st_size < 200_000


def test_all_of_it_in_one_command(scene_folder: Path, tmp_path: Path) -> None:
    out, packed = tmp_path / "facts.json", tmp_path / "packed"
    maskery.pack(str(scene_folder), packed, short_side=32, workers=1)
    said = gpu.table(gpu.run(torch.device("cpu"), out, 7.5, str(scene_folder), str(packed), tiny=True))
    facts = json.loads(out.read_text())
    assert {"ceilings", "steps", "loop", "kernels", "done", "not_reached", "device", "torch", "date"} <= facts.keys()
    jobs = {row["name"]: row for row in facts["steps"] if "images_per_second" in row}
    assert {"mae", "rc-mae", "transformers"} <= jobs.keys()
    sources = {row["from"]: row for row in facts["loop"] if "from" in row}
    assert sources.keys() == {"folder", "packed"}
    assert all("error" not in row and 0 <= row["shares"]["data wait"] < 1 for row in sources.values())
    assert "| mae vit-micro/8@32x8 eager |" in said
    assert "loop from packed" in said


@pytest.mark.parametrize("given", [True, False])
def test_loading_quickly(
    given: bool, scene_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(loading, "QUICK_IMAGES", 4)
    options = ["--quick", "--rounds", "1", "--size", "16", "--short-side", "32"]
    monkeypatch.setattr(sys, "argv", ["loading", *options, *(["--data", str(scene_folder)] if given else [])])
    loading.main()
    printed = capsys.readouterr().out
    assert "| 4 images, crops of 16 |" in printed
    assert "| packed raw, device |" in printed


def test_steps_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "facts.json"
    monkeypatch.setattr(step, "QUICK_SECONDS", 0.01)
    monkeypatch.setattr(sys, "argv", ["step", "--quick", "--rounds", "1", "--out", str(out), "vit-micro/8@32x2"])
    step.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert row["images_per_second"]["maskery"] > 0
    assert "| vit-micro/8 at 32, batch 2 |" in capsys.readouterr().out


def test_loading_a_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "images", tmp_path / "facts.json"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(scenes.scene(0, i, 96).image).save(folder / f"{i}.jpg", quality=90)
    options = ["--size", "16", "--short-side", "32", "--rounds", "1", "--decoders", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["loading", "--data", str(folder), *options])
    loading.main()
    facts = json.loads(out.read_text())
    ways = ("folder", "packed, short side 32", "packed raw", "memory")
    assert [r["row"] for r in facts["rows"]] == ["torchvision", *(f"{w}, {d}" for w in ways for d in ("device", "CPU"))]
    assert {"Pillow", "simplejpeg"} <= {r["row"] for r in facts["decoders"]}
    assert all(r["images_per_second"] > 0 and r["ratio"] > 0 for r in facts["rows"] + facts["decoders"])
    assert facts["images"] == 6
    assert facts["versions"].keys() >= {"torch", "torchvision", "pillow", "simplejpeg"}
    assert "| torchvision |" in capsys.readouterr().out

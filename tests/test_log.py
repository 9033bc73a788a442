"""What a run writes about itself."""

import io
import json
from pathlib import Path

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskery.distributed import World
from maskery.log import LossSums, RunLog, Skipped
from maskery.runs.metrics import read_rows
from maskery.terminal import Terminal

ALONE = World(0, 1, 1, torch.device("cpu"))


def test_going_on_takes_away_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"step": 0, "knn": 0.1}, {"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.9}, {"step": 4, "knn": 0.2}]
    lines += [{"step": 6, "loss": 0.8}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(f) + "\n" for f in lines) + '{"step": 8, "lo')
    RunLog(tmp_path, Terminal(), step=4, steps=10)
    kept = read_rows(tmp_path / "metrics.jsonl")
    assert kept == lines[:3]  # the look of step 4 comes after its checkpoint and is made again


def test_strips_are_in_tensorboard_and_those_after_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    for step, grey in ((0, 10), (4, 90), (8, 170)):
        Image.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / f"step-{step:08d}.png")
    with RunLog(tmp_path, Terminal(), step=0, steps=10) as log:
        for step in (0, 4, 8):
            log.evaluation({"step": step, "epoch": 0.0, "knn": 0.1}, tmp_path)
    Image.new("RGB", (6, 4), (200,) * 3).save(tmp_path / "step-00000008.png")
    with RunLog(tmp_path, Terminal(), step=5, steps=10) as log:
        log.evaluation({"step": 8, "epoch": 0.0, "knn": 0.1}, tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("samples")
    pixels = [Image.open(io.BytesIO(image.encoded_image_string)).getpixel((0, 0)) for image in found]
    assert [(image.step, pixel) for image, pixel in zip(found, pixels, strict=True)] == [
        (0, (10, 10, 10)),
        (4, (90, 90, 90)),
        (8, (200, 200, 200)),
    ]


def test_each_unreadable_file_is_listed_once(tmp_path: Path) -> None:
    skipped = Skipped(tmp_path / "skipped.jsonl")
    assert skipped.add([("a.jpg", "broken"), ("b.jpg", "0 bytes")]) == 2
    assert skipped.add([("a.jpg", "broken")]) == 0
    again = Skipped(tmp_path / "skipped.jsonl")
    assert again.add([("b.jpg", "0 bytes"), ('c "\n.jpg', "broken")]) == 1
    assert len(read_rows(tmp_path / "skipped.jsonl")) == 3


def test_sums_are_exact_and_go_on() -> None:
    torch.manual_seed(0)
    values = torch.rand(50)
    whole, first = LossSums(ALONE.device), LossSums(ALONE.device)
    for v in values:
        whole.add({"loss": v})
    for v in values[:20]:
        first.add({"loss": v})
    second = LossSums(ALONE.device, *first.gather(ALONE))
    for v in values[20:]:
        second.add({"loss": v})
    assert second.gather(ALONE) == whole.gather(ALONE)

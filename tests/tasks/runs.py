"""Small runs of tasks, without weights to start from, and data as an objective gets them."""

from pathlib import Path
from typing import Any

from maskery.config import ImagesConfig, OptimConfig, Run, SaveConfig, WatchConfig
from maskery.data.dataset import ImageData, open_data
from maskery.distributed import ALONE
from maskery.nn.vit import ViTConfig
from maskery.tasks import TASKS
from maskery.tasks.labels import LabelsConfig
from maskery.terminal import Quiet
from maskery.train import Result, train

VIT = ViTConfig(48, 2, 3, 8, (32, 32))
NAMES = LabelsConfig(classes='["disc", "moon", "star"]')


def task(kind: str, data: Path, **leaves: Any) -> Run:
    settings = {"labels": LabelsConfig(**leaves.pop("labels", {})), "eval_share": 1.0} | leaves.pop("settings", {})
    watch = {"log_every": 1, "looks": 4, "pictures": 1} | leaves.pop("watch", {})
    small = {"model": "vit-micro", "patch_size": 8, "image_size": 32, "steps": 8, "batch_size": 8}
    return Run(
        TASKS[kind].Config(**settings),
        data=str(data),
        method=kind,
        images=ImagesConfig(workers=0),
        watch=WatchConfig(**watch),
        save=SaveConfig(every=1, keep=leaves.pop("keep", 0)),
        optim=OptimConfig(**{"name": "sgd" if kind == "probe" else "adamw"} | leaves.pop("optim", {})),
        **small | leaves,
    )


def done(kind: str, data: Path, out: Path, **leaves: Any) -> Result:
    return train(task(kind, data, **leaves), out, ALONE)


def opened(where: Path, size: tuple[int, int] = (32, 32), **images: Any) -> ImageData:
    return open_data(str(where), ImagesConfig(memory=0.0, **images), size, Quiet())

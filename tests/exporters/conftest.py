"""Networks whose every number matters, and a run."""

from pathlib import Path

import pytest
import torch

import maskery
from maskery.exporters.model import ExportModel
from maskery.nn.vit import ViT, ViTConfig
from maskery.runs.directory import CHOSEN_HEAD
from tests.classified import finished
from tests.tasks.images import two_colours
from tests.test_train import TINY


def network(config: ViTConfig, eps: float = 1e-6) -> ViT:
    """Random in all parameters, so that none can be swapped or forgotten without a difference."""
    torch.manual_seed(0)
    vit = ViT(config).eval()
    for name, p in vit.named_parameters():
        if name != "pos_embed":
            torch.nn.init.normal_(p, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.2)
    for m in vit.modules():
        if isinstance(m, torch.nn.LayerNorm):
            m.eps = eps
    return vit


SQUARE = ViTConfig(48, 2, 3, 8, (32, 32), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
RECTANGLE = ViTConfig(48, 2, 3, 8, (24, 40), (0.1, 0.3), (0.2, 0.4))


@pytest.fixture(params=[SQUARE, RECTANGLE], ids=["square", "rectangle, 2 channels"])
def source(request: pytest.FixtureRequest) -> ExportModel:
    return ExportModel(network(request.param))


@pytest.fixture(scope="session")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MAE, with numbers and an evaluation."""
    out = tmp_path_factory.mktemp("exports") / "run"
    maskery.pretrain(data=scene_folder, out=out, steps=6, **TINY)
    maskery.knn(where=out, data=str(scene_folder))
    return out


@pytest.fixture(scope="session")
def taught(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RC-MAE: student and teacher."""
    out = tmp_path_factory.mktemp("exports") / "rc-mae"
    few = TINY | {"watch": {"looks": 0}}
    maskery.pretrain(data=scene_folder, out=out, steps=3, method="rc-mae", **few)
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two colours, one of which cannot be read."""
    folder = two_colours(tmp_path_factory.mktemp("colours") / "photos", {"train": 8, "val": 5})
    (folder / "val" / "blue" / "000.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning by the mean patch token."""
    return finished("finetune", photos, tmp_path_factory.mktemp("classifiers") / "tuned")


@pytest.fixture(scope="session")
def probed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe of the class token with two learning rates."""
    out = tmp_path_factory.mktemp("classifiers") / "probed"
    finished("probe", photos, out, settings={"lrs": (1.0, 2.0)})
    (out / "evals" / CHOSEN_HEAD).write_text('{"head": 1}')
    return out

"""Trained classifiers to start from, random in every number, so that none can be swapped or forgotten unseen."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskery.config import ImagesConfig, Run
from maskery.exporters.model import ExportModel
from maskery.inference.classifier import Classifier, SelectedHead
from maskery.runs.directory import CHOSEN_HEAD
from maskery.tasks import TASKS
from maskery.tasks.labels import LabelsConfig
from maskery.tasks.measure import measure

from .tasks.runs import done

NAMES = ('"the" moon', "ring|`x`", "star")
MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)


def shaken(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor with noise of its own; variances stay above zero."""
    g = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(t.shape, generator=g) for name, t in state.items()}
    return {name: t * noise[name].abs() + 0.1 if name == "var" else t + 0.2 * noise[name] for name, t in state.items()}


def trained(kind: str, several: bool = False, head: int = 0, size: Any = 32, **settings: Any) -> Classifier:
    labels = LabelsConfig(classes=json.dumps(NAMES), several=several)
    run = Run(
        settings=TASKS[kind].Config(labels=labels, **settings),
        method=kind,
        model="vit-micro",
        patch_size=8,
        image_size=size,
        images=ImagesConfig(channels=3, bits=8, mean=MEAN, std=STD),
    )
    task: Any = TASKS[kind](run.settings, run.vit())
    task.load_state_dict(shaken(task.state_dict()))
    return Classifier(SelectedHead(task.eval(), head).eval(), NAMES, several, task.config.eval_share, run.images)


def exported(kind: str, **more: Any) -> ExportModel:
    """A classifier as it is exported."""
    return ExportModel.of_classifier(trained(kind, **more), "a classifier")


def finished(kind: str, data: Path, out: Path, **leaves: Any) -> Path:
    """A run that was trained for two steps and measured where it was best; the best weights are then shaken."""
    settings = {"eval_share": 0.875} | leaves.pop("settings", {})
    watch = {"looks": 1, "best": "map" if leaves.get("several") else "top1"}
    leaves.pop("several", None)
    done(kind, data, out, steps=2, keep=1, watch=watch, settings=settings, **leaves)
    file = out / "checkpoints" / "best" / "model.safetensors"
    state = shaken(load_file(file))
    file.unlink()  # a link to the newest one's
    save_file(state, file)
    measure(out, torch.device("cpu"), "the run's end", "random")
    return out


def by_hand(run: Path, images: Tensor) -> Tensor:
    """Its logits from the tensors in its files, by timm's blocks and PyTorch's functions: nothing of ours but names."""
    said = yaml.safe_load((run / "config.yaml").read_text())
    state = load_file(run / "checkpoints" / "best" / "model.safetensors")
    mean, std = (torch.tensor(said["images"][name]).view(-1, 1, 1) for name in ("mean", "std"))
    model: Any = VisionTransformer(32, 8, 3, 0, "", 128, 6, 4, final_norm=False).eval()
    encoder = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    scale, shift = encoder.pop("norm.weight"), encoder.pop("norm.bias")
    model.load_state_dict(encoder)
    with torch.no_grad():
        tokens = model.forward_features((images - mean) / std)
        if said["method"] == "finetune":
            z = F.layer_norm(tokens[:, 1:].mean(1), (128,), state["norm.weight"], state["norm.bias"], 1e-6)
            return F.linear(z, state["head.weight"], state["head.bias"])
        z = F.layer_norm(tokens[:, 0], (128,), scale, shift, 1e-6)
        z = F.batch_norm(z, state["mean"], state["var"], eps=1e-6)
        k = json.loads((run / "evals" / CHOSEN_HEAD).read_text())["head"]
        return F.linear(z, state[f"heads.{k}.weight"], state[f"heads.{k}.bias"])

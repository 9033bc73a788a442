"""Plain safetensors: the network's state dict under timm's names, with what no tensor says in config.json."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..inference.classifier import METADATA, export_metadata
from .check import check_outputs
from .model import ExportModel, ExportResult, open_model
from .timm_directory import model_args, save_tensors

LOAD = """\
import maskery

encoder = maskery.load("{out}/model.safetensors")  # its state dict has timm's names
features = encoder.features(image)"""
CLASSIFY = """\
import maskery

classifier = maskery.classifier("{out}/model.safetensors")
predictions = classifier.predict(image)  # of each: .label, .probability, .probabilities"""


def write_safetensors(model: ExportModel, folder: Path) -> ExportResult:
    """Write model.safetensors and config.json: heads, image size, mean, std, and what a classifier's answers mean."""
    encoder, c, network = model.encoder, model.encoder.config, model.network
    state = network.timm_state() if network else encoder.state_dict()
    config: dict[str, Any] = {
        "model_args": model_args(c),
        "pretrained_cfg": {"mean": list(c.mean), "std": list(c.std)},
        "norm_eps": encoder.norm.eps,
    }
    if model.classifier and network:
        config |= {"label_names": list(model.classifier.classes)}
        config |= {METADATA: export_metadata(model.classifier, network.pool)}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_tensors(state, folder, {"maskery": json.dumps(config)})
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    wrong = [name for name, t in state.items() if not t.equal(stored.get(name, t.new_empty(0)))]
    if wrong or len(stored) != len(state):
        name = wrong[0] if wrong else "a tensor"
        raise ValueError(f"{name} was not read back as it was written: nothing was written")
    again = open_model(folder, lambda note: None)
    worst = check_outputs(model, again.outputs, "the stored", 1e-5 if network else 1e-6)
    compared = f"tensors read back are equal, {model.output_name} ours"
    load = CLASSIFY if network else LOAD
    return ExportResult("safetensors", worst, compared, load, "maskery", "any size its patches divide")

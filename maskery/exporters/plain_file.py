"""Plain safetensors: the network's state dict under timm's names, with what no tensor says beside it."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..inference.classifier import OURS, plain_at, said
from ..weights.load import load_encoder
from .check import difference, images_for, refuse_above, tokens_of
from .source import Exported, Source
from .timm_directory import TOLERANCE, model_args, save

LOAD = """\
import maskery

encoder = maskery.load("{out}/model.safetensors")  # its state dict has timm's names
features = encoder.features(image)"""
CLASSIFY = """\
import maskery

classifier = maskery.classifier("{out}/model.safetensors")
predictions = classifier.predict(image)  # of each: .label, .probability, .probabilities"""


def write(source: Source, folder: Path) -> Exported:
    """model.safetensors and config.json (heads, image size, mean, std: what no tensor says), read back and compared."""
    encoder, c, named = source.encoder, source.encoder.config, source.classifier
    state = named.network.timm_state() if named else encoder.state_dict()
    facts: dict[str, Any] = {
        "model_args": model_args(c),
        "pretrained_cfg": {"mean": list(c.mean), "std": list(c.std)},
        "norm_eps": encoder.norm.eps,
    }
    if named:
        facts |= {"label_names": list(named.like.classes), OURS: said(named.like, named.network.pool)}
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    save(state, folder / "model.safetensors", {"maskery": json.dumps(facts)})
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    wrong = [name for name, t in state.items() if not t.equal(stored.get(name, t.new_empty(0)))]
    if wrong or len(stored) != len(state):
        raise ValueError(
            f"{wrong[0] if wrong else 'a tensor'} was not read back as it was written: nothing was written"
        )
    images = images_for(encoder)
    if named:
        found = difference(named.like.classify(images), plain_at(folder).classify(images))
        refuse_above(TOLERANCE, found, "logits of what was read back")
    else:
        found = difference(tokens_of(encoder, images), tokens_of(load_encoder(folder, lambda note: None), images))
        refuse_above(1e-6, found, "features of what was read back")
    return Exported(
        "safetensors",
        found,
        f"tensors read back are equal, {'logits' if named else 'features'} ours",
        CLASSIFY if named else LOAD,
        "maskery",
        "any size its patches divide",
    )

"""Directories for Hugging Face transformers: `ViTModel`, or `ViTForImageClassification` with a classifier."""

import json
from pathlib import Path

import torch

from ..nn.linear_classifier import Pool
from .check import difference, images_for, refuse_above, tokens_of
from .hf_files import (
    LOAD,
    TOLERANCE,
    config_of,
    library,
    names_of,
    processor,
    refuse_incomplete,
    save,
    sizes_of,
    without_bars,
)
from .source import Exported, Named, Source
from .timm_directory import problem_type


def write(source: Source, folder: Path) -> Exported:
    """What `ViTModel.from_pretrained(FOLDER)` opens, with what prepares its images; compared with it."""
    if source.classifier:
        return write_classifier(source, source.classifier, folder)
    transformers = library("hf")
    encoder = source.encoder
    eps = encoder.norm.eps
    facts = {"architectures": ["ViTModel"], "model_type": "vit"} | config_of(encoder)
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    limits = processor(encoder, folder)
    save(names_of(encoder.state_dict()), folder)

    with without_bars(transformers):
        model, told = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    refuse_incomplete(told)
    images = images_for(encoder)
    with torch.no_grad():
        theirs = model.eval()(encoder.normalise(images)).last_hidden_state
    found = difference(tokens_of(encoder, images), theirs)
    refuse_above(TOLERANCE, found, f"transformers' features (eps of norms {eps:g})")
    last = 'features = model(**processor(image, return_tensors="pt")).last_hidden_state[:, 1:].mean(1)'
    load = LOAD.format(model="ViTModel", arguments=", add_pooling_layer=False", last=last)
    compared = "the features of transformers' ViTModel are ours"
    return Exported("hf", found, compared, load, "transformers", sizes_of(encoder), limits)


def write_classifier(source: Source, named: Named, folder: Path) -> Exported:
    """What `ViTForImageClassification.from_pretrained(FOLDER)` opens, likewise; logits compared."""
    transformers = library("hf")
    network, classes, where = named.network, named.like.classes, source.where
    if network.pool != Pool("class_token"):
        raise ValueError(
            f"{where}: the classifier looks at the {network.pool}, and transformers' ViTForImageClassification at the "
            "class token after the last norm; take --to timm, which transformers' AutoModelForImageClassification "
            "opens where timm is installed, or --to onnx"
        )
    names = dict(enumerate(classes))
    facts = {"architectures": ["ViTForImageClassification"], "model_type": "vit"} | config_of(network.encoder)
    facts |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    facts |= {"problem_type": problem_type(named.like.several)}
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    limits = processor(network.encoder, folder, named.like.share)
    state = {f"vit.{name}": t for name, t in names_of(network.encoder.state_dict()).items()}
    save(state | {f"classifier.{name}": t for name, t in network.head.state_dict().items()}, folder)

    with without_bars(transformers):
        model, told = transformers.ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    refuse_incomplete(told)
    images = images_for(network.encoder)
    with torch.no_grad():
        theirs = model.eval()(network.encoder.normalise(images)).logits
    found = difference(named.like.classify(images), theirs)
    refuse_above(TOLERANCE, found, "transformers' logits")
    if model.config.id2label != names:
        raise ValueError("transformers did not read the names of the classes as they were written: nothing was written")
    probable = "sigmoid()" if named.like.several else "softmax(1)"
    last = (
        f'probabilities = model(**processor(image, return_tensors="pt")).logits.{probable}  # of model.config.id2label'
    )
    load = LOAD.format(model="ViTForImageClassification", arguments="", last=last)
    compared = "the logits of transformers' ViTForImageClassification are ours"
    return Exported("hf", found, compared, load, "transformers", sizes_of(network.encoder), limits)

"""Directories for Hugging Face transformers: `ViTModel`, or `ViTForImageClassification` with a classifier."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..inference.classifier import Classifier
from ..nn.linear_classifier import LinearClassifier, Pool
from .check import check_outputs
from .hf_files import LOAD, encoder_names, import_transformers, load_back, sizes_of, write_directory
from .model import ExportModel, ExportResult
from .timm_directory import activation, problem_type


def write_hf(model: ExportModel, folder: Path) -> ExportResult:
    """Write what `ViTModel.from_pretrained(FOLDER)` or `ViTForImageClassification` opens."""
    import_transformers("hf")
    if model.classifier and model.network:
        return _write_classifier(model, model.classifier, model.network, folder)
    encoder = model.encoder
    config = {"architectures": ["ViTModel"], "model_type": "vit"}
    limits = write_directory(folder, encoder, config, encoder_names(encoder.state_dict()))
    theirs = load_back("ViTModel", folder, add_pooling_layer=False)
    worst = check_outputs(model, lambda images: theirs(encoder.normalise(images)).last_hidden_state, "transformers'")
    last = 'features = model(**processor(image, return_tensors="pt")).last_hidden_state[:, 1:].mean(1)'
    load = LOAD.format(model="ViTModel", arguments=", add_pooling_layer=False", last=last)
    compared = "the features of transformers' ViTModel are ours"
    return ExportResult("hf", worst, compared, load, "transformers", sizes_of(encoder), limits)


def _write_classifier(
    model: ExportModel, classifier: Classifier, network: LinearClassifier, folder: Path
) -> ExportResult:
    if network.pool != Pool("class_token"):
        raise ValueError(
            f"{model.where}: the classifier looks at the {network.pool}, and transformers' ViTForImageClassification "
            "at the class token after the last norm; take --to timm, which transformers' "
            "AutoModelForImageClassification opens where timm is installed, or --to onnx"
        )
    encoder, labels = network.encoder, dict(enumerate(classifier.classes))
    config: dict[str, Any] = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    config |= {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    config |= {"problem_type": problem_type(classifier.multilabel)}
    tensors: dict[str, Tensor] = {f"vit.{name}": t for name, t in encoder_names(encoder.state_dict()).items()}
    tensors |= {f"classifier.{name}": t for name, t in network.head.state_dict().items()}
    limits = write_directory(folder, encoder, config, tensors, classifier.crop_fraction)

    theirs = load_back("ViTForImageClassification", folder)
    worst = check_outputs(model, lambda images: theirs(encoder.normalise(images)).logits, "transformers'")
    if theirs.config.id2label != labels:
        raise ValueError("transformers did not read the names of the classes as they were written: nothing was written")
    probabilities = f'model(**processor(image, return_tensors="pt")).logits.{activation(classifier.multilabel)}'
    last = f"probabilities = {probabilities}  # of model.config.id2label"
    load = LOAD.format(model="ViTForImageClassification", arguments="", last=last)
    compared = "the logits of transformers' ViTForImageClassification are ours"
    return ExportResult("hf", worst, compared, load, "transformers", sizes_of(encoder), limits)

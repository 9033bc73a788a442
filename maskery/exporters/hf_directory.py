"""Directories for Hugging Face transformers: `ViTModel`, or `ViTForImageClassification` with a classifier."""

from pathlib import Path
from typing import Any

from ..nn.linear_classifier import Pool
from .check import check_outputs
from .hf_files import LOAD, encoder_names, import_transformers, load_back, sizes_of, write_directory
from .model import ExportModel, ExportResult
from .timm_directory import activation, problem_type


def write_hf(model: ExportModel, folder: Path) -> ExportResult:
    """Write what `ViTModel.from_pretrained(FOLDER)` or `ViTForImageClassification` opens."""
    import_transformers("hf")
    encoder, classifier, network = model.encoder, model.classifier, model.network
    tensors, last = encoder_names(encoder.state_dict()), 'model(**processor(image, return_tensors="pt"))'
    if classifier and network:
        if network.pool != Pool("class_token"):
            raise ValueError(
                f"{model.where}: the classifier looks at the {network.pool}, and transformers' "
                "ViTForImageClassification at the class token after the last norm; take --to timm, which transformers' "
                "AutoModelForImageClassification opens where timm is installed, or --to onnx"
            )
        name, output, arguments = "ViTForImageClassification", "logits", {}
        labels = dict(enumerate(classifier.classes))
        config: dict[str, Any] = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
        config |= {"problem_type": problem_type(classifier.multilabel)}
        tensors = {f"vit.{key}": t for key, t in tensors.items()}
        tensors |= {f"classifier.{key}": t for key, t in network.head.state_dict().items()}
        last = f"probabilities = {last}.logits.{activation(classifier.multilabel)}  # of model.config.id2label"
    else:
        name, output, arguments, config = "ViTModel", "last_hidden_state", {"add_pooling_layer": False}, {}
        last = f"features = {last}.last_hidden_state[:, 1:].mean(1)"
    config = {"architectures": [name], "model_type": "vit"} | config
    limits = write_directory(folder, encoder, config, tensors, classifier.crop_fraction if classifier else 1.0)

    theirs = load_back(name, folder, **arguments)
    worst = check_outputs(model, lambda images: getattr(theirs(encoder.normalise(images)), output), "transformers'")
    if classifier and theirs.config.id2label != config["id2label"]:
        raise ValueError("transformers did not read the names of the classes as they were written: nothing was written")
    load = LOAD.format(model=name, arguments="".join(f", {key}={value}" for key, value in arguments.items()), last=last)
    compared = f"the {model.output_name} of transformers' {name} are ours"
    return ExportResult("hf", worst, compared, load, "transformers", sizes_of(encoder), limits)

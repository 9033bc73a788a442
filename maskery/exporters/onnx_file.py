"""One ONNX graph: images in [0, 1] -> class token and patch tokens, or a classifier's logits and probabilities, for any
number and size of images.

B images, C channels, H x W pixels, N patches, D width
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.classifier import Classifier
from ..nn.linear_classifier import LinearClassifier, probabilities
from ..nn.vit import ViT
from ..text import needs_extra
from .check import check_difference, difference, sample_images
from .model import ExportModel, ExportResult

OPSET = 18  # the first that interpolates with antialiasing, which other image sizes need
TOLERANCE = 1e-4
ONE_FILE = 1_900_000_000  # bytes of weights; protobuf ends at 2 GB, beyond this they go into a file of their own
LOAD = """\
import onnxruntime

session = onnxruntime.InferenceSession("{out}/model.onnx")
class_token, patch_tokens = session.run(None, {{"images": images}})  # float32 [B, C, H, W] in [0, 1], not normalised"""


CLASSIFY = (
    LOAD.rpartition("\n")[0]
    + """
logits, probabilities = session.run(None, {{"images": images}})  # float32 [B, C, H, W] in [0, 1], not normalised"""
)


class EncoderGraph(nn.Module):
    """The computation of `ViT.forward`."""

    def __init__(self, vit: ViT):
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] in [0, 1] -> [B, D], [B, N, D]."""
        tokens = self.vit.norm(trunk(self.vit, images))
        return tokens[:, 0], tokens[:, 1:]


class ClassifierGraph(nn.Module):
    """The computation of a classifier."""

    def __init__(self, network: LinearClassifier, multilabel: bool):
        super().__init__()
        self.network, self.multilabel = network, multilabel

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] in [0, 1] -> logits [B, M], probabilities [B, M]."""
        logits = self.network.answer(trunk(self.network.encoder, images))
        return logits, probabilities(logits, self.multilabel)


def trunk(vit: ViT, images: Tensor) -> Tensor:
    """Tokens before the last norm, without a branch on the size: [B, C, H, W] in [0, 1] -> [B, 1 + N, D]."""
    c = vit.config
    x = (images - vit.mean) / vit.std
    table = vit.pos_embed[:, 1:].unflatten(1, c.grid).permute(0, 3, 1, 2)  # [1, D, rows, columns]
    rows, columns = images.shape[2] // c.patch_size, images.shape[3] // c.patch_size
    table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)  # its own size: unchanged
    patches = vit.patch_embed(x) + table.flatten(2).mT
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
    tokens = torch.cat([first, patches], dim=1)
    for block in vit.blocks:
        tokens = block(tokens)
    return tokens


def write_onnx(model: ExportModel, folder: Path) -> ExportResult:
    """Write model.onnx, and model.onnx.data where the weights are above 1.9 GB."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter asks for it only after a while
    except ImportError as e:
        message = needs_extra("--to onnx", "onnx, onnxscript and onnxruntime", "onnx")
        raise ImportError(f"{message} ({e})") from e
    encoder, classifier = model.encoder, model.classifier
    if classifier and model.network:
        graph, names = ClassifierGraph(model.network, classifier.multilabel), ("logits", "probabilities")
    else:
        graph, names = EncoderGraph(encoder), ("class_token", "patch_tokens")
    program = _trace(graph.eval(), names, encoder)
    program.model.metadata_props.update(_metadata(encoder, classifier))
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    program.save(folder / "model.onnx", external_data=weights > ONE_FILE)

    outputs = "logits" if classifier else "tokens"
    return ExportResult(
        "onnx",
        _compare(model, folder / "model.onnx", outputs),
        f"ONNX Runtime's {outputs} (opset {OPSET}; batches of 1, 2 and 3, two image sizes) are ours",
        CLASSIFY if classifier else LOAD,
        "onnx",
        f"any number of images, heights and widths that are multiples of {encoder.config.patch_size}",
        ("Images go in as float32 in [0, 1]: the graph normalises them itself by mean and standard deviation",),
    )


@torch.no_grad()
def _compare(model: ExportModel, file: Path, outputs: str) -> float:
    """Compare with ONNX Runtime on three batches, one of another image size. ValueError when they differ."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are for those who write graphs
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    c, worst = model.encoder.config, 0.0
    (rows, columns), p = c.grid, c.patch_size
    for count, size in ((1, c.image_size), (3, c.image_size), (2, ((rows + 1) * p, max(1, columns - 1) * p))):
        images = sample_images(model.encoder, count, size)
        expected = _outputs(model.classifier, images) if model.classifier else model.encoder(images)
        actual = [torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()})]
        value = max(difference(a, b) for a, b in zip(expected, actual, strict=True))
        batch = f"{count} x {c.channels} x {size[0]} x {size[1]}"
        check_difference(value, TOLERANCE, f"ONNX Runtime's {outputs} of {batch}")
        worst = max(worst, value)
    return worst


def _outputs(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    logits = classifier.classify(images)
    return logits, probabilities(logits, classifier.multilabel)


def _trace(graph: nn.Module, names: tuple[str, str], encoder: ViT) -> Any:
    batch, rows, columns = (torch.export.Dim(n, min=1, max=m) for n, m in (("b", 2**20), ("h", 4096), ("w", 4096)))
    p = encoder.config.patch_size
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts about each other
            return torch.onnx.export(
                graph,
                (sample_images(encoder, 2),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[*names],
                dynamic_shapes={"images": {0: batch, 2: p * rows, 3: p * columns}},
                verbose=False,
            )
    finally:
        logger.setLevel(level)


def _metadata(encoder: ViT, classifier: Classifier | None) -> dict[str, str]:
    """The graph's metadata: what goes in and what comes out."""
    c, classes = encoder.config, {}
    output = "class_token [B, D], patch_tokens [B, N, D] row by row, both after the last norm"
    if classifier:
        kind = "each class by itself, an image may have several" if classifier.multilabel else "one of the classes"
        output = f"logits [B, M], probabilities [B, M] of {kind}"
        classes = {
            "maskery.classes": json.dumps(classifier.classes, ensure_ascii=False),
            "maskery.crop_share": str(classifier.crop_fraction),
        }
    return classes | {
        "maskery.input": "images: float32 [B, C, H, W] in [0, 1]; the graph normalises them by mean and std",
        "maskery.output": output,
        "maskery.mean": json.dumps(c.mean),
        "maskery.std": json.dumps(c.std),
        "maskery.image_size": json.dumps(c.image_size),
        "maskery.patch_size": str(c.patch_size),
    }

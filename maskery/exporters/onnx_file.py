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
from ..nn.linear_classifier import LinearClassifier, shares
from ..nn.vit import ViT
from .check import difference, images_for, refuse_above
from .source import Exported, Named, Source

OPSET = 18  # the first that interpolates with antialiasing, which other image sizes need
TOLERANCE = 1e-4
ONE_FILE = 1_900_000_000  # bytes of weights; protobuf ends at 2 GB, beyond this they go into a file of their own
NEEDS = "needs onnx, onnxscript and onnxruntime: pip install 'maskery[onnx]'"
LOAD = """\
import onnxruntime

session = onnxruntime.InferenceSession("{out}/model.onnx")
class_token, patch_tokens = session.run(None, {{"images": images}})  # float32 [B, C, H, W] in [0, 1], not normalised"""


CLASSIFY = (
    LOAD.rpartition("\n")[0]
    + """
logits, probabilities = session.run(None, {{"images": images}})  # float32 [B, C, H, W] in [0, 1], not normalised"""
)


class Trunk(nn.Module):
    """What `ViT` computes before its last norm, without a branch on the size of the images."""

    def __init__(self, vit: ViT):
        super().__init__()
        self.vit = vit

    def tokens(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> [B, 1 + N, D]."""
        vit, c = self.vit, self.vit.config
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


class Graph(Trunk):
    """What `ViT.forward` computes."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] in [0, 1] -> [B, D], [B, N, D]."""
        tokens = self.vit.norm(self.tokens(images))
        return tokens[:, 0], tokens[:, 1:]


class Classify(Trunk):
    """What a classifier answers."""

    def __init__(self, network: LinearClassifier, several: bool):
        super().__init__(network.encoder)
        self.network, self.several = network, several

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] in [0, 1] -> logits [B, M], probabilities [B, M]."""
        logits = self.network.answer(self.tokens(images))
        return logits, shares(logits, self.several)


def write(source: Source, folder: Path) -> Exported:
    """model.onnx (and model.onnx.data where the weights are above 1.9 GB), compared with ONNX Runtime on batches of 1
    and 3 and on another image size."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter asks for it only after a while
    except ImportError as e:
        raise ImportError(f"--to onnx {NEEDS} ({e})") from e
    encoder, c, named = source.encoder, source.encoder.config, source.classifier
    file, p = folder / "model.onnx", c.patch_size
    graph = Classify(named.network, named.like.several) if named else Graph(encoder)
    names = ("logits", "probabilities") if named else ("class_token", "patch_tokens")
    what = "logits" if named else "tokens"
    program = _exported(graph.eval(), names, encoder)
    program.model.metadata_props.update(_facts(encoder, source.classifier))
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    program.save(file, external_data=weights > ONE_FILE)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are for those who write graphs
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rows, columns = c.grid
    found = 0.0
    for count, size in ((1, c.image_size), (3, c.image_size), (2, ((rows + 1) * p, max(1, columns - 1) * p))):
        images = images_for(encoder, count, size)
        with torch.no_grad():
            ours = _answers(named.like, images) if named else encoder(images)
        theirs = [torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()})]
        worst = max(difference(a, b) for a, b in zip(ours, theirs, strict=True))
        refuse_above(TOLERANCE, worst, f"ONNX Runtime's {what} of {count} x {c.channels} x {size[0]} x {size[1]}")
        found = max(found, worst)
    return Exported(
        "onnx",
        found,
        f"ONNX Runtime's {what} (opset {OPSET}; batches of 1, 2 and 3, two image sizes) are ours",
        CLASSIFY if named else LOAD,
        "onnx",
        f"any number of images, heights and widths that are multiples of {p}",
        ("Images go in as float32 in [0, 1]: the graph normalises them itself by mean and standard deviation",),
    )


def _answers(like: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    logits = like.classify(images)
    return logits, shares(logits, like.several)


def _exported(graph: nn.Module, names: tuple[str, str], encoder: ViT) -> Any:
    batch, rows, columns = (torch.export.Dim(n, min=1, max=m) for n, m in (("b", 2**20), ("h", 4096), ("w", 4096)))
    p = encoder.config.patch_size
    says = logging.getLogger("torch.onnx")
    level = says.level
    says.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts about each other
            return torch.onnx.export(
                graph,
                (images_for(encoder, 2),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[*names],
                dynamic_shapes={"images": {0: batch, 2: p * rows, 3: p * columns}},
                verbose=False,
            )
    finally:
        says.setLevel(level)


def _facts(encoder: ViT, named: Named | None) -> dict[str, str]:
    """The graph's metadata: what goes in and what comes out."""
    c = encoder.config
    out = "class_token [B, D], patch_tokens [B, N, D] row by row, both after the last norm"
    of_classes = {}
    if named:
        kind = "each class by itself, an image may have several" if named.like.several else "one of the classes"
        out = f"logits [B, M], probabilities [B, M] of {kind}"
        of_classes = {
            "maskery.classes": json.dumps(named.like.classes, ensure_ascii=False),
            "maskery.crop_share": str(named.like.share),
        }
    return of_classes | {
        "maskery.input": "images: float32 [B, C, H, W] in [0, 1]; the graph normalises them by mean and std",
        "maskery.output": out,
        "maskery.mean": json.dumps(c.mean),
        "maskery.std": json.dumps(c.std),
        "maskery.image_size": json.dumps(c.image_size),
        "maskery.patch_size": str(c.patch_size),
    }

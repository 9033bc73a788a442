"""An exported directory to start from."""

from pathlib import Path

from maskery.exporters.export import export_to
from maskery.exporters.model import ExportModel
from maskery.nn.vit import ViT


def to_timm(encoder: ViT, out: Path) -> None:
    export_to("timm", ExportModel(encoder), out)

"""An exported directory to start from."""

from pathlib import Path

from maskery.exporters.export import export_to
from maskery.exporters.source import Source
from maskery.nn.vit import ViT


def to_timm(encoder: ViT, out: Path) -> None:
    export_to("timm", Source(encoder), out)

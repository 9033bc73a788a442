"""What a run leaves to the data and the machine, decided."""

from dataclasses import replace

import torch

from .config import Run
from .data.dataset import ImageData
from .data.sources.names import absolute


def resolved(run: Run, data: ImageData, device: torch.device) -> Run:
    """The run with everything decided that was left to the data and the machine."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return replace(
        run,
        data=absolute(run.data),
        images=data.config,
        precision=("bf16" if bf16 else "float32") if run.precision == "auto" else run.precision,
        compile=("on" if device.type == "cuda" else "off") if run.compile == "auto" else run.compile,
    )

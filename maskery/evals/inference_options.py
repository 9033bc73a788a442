"""How a network is run over many images when it is evaluated."""

from dataclasses import dataclass

import torch

from ..terminal import Tick

CPU = torch.device("cpu")


@dataclass(frozen=True)
class InferenceOptions:
    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    workers: int = 0  # processes that read and decode
    batch_size: int | None = None  # None: what suits the device
    progress: Tick | None = None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def batch(self, cuda: int, cpu: int) -> int:
        """Images of a batch: as many as were asked for, or what suits the device."""
        return self.batch_size or (cuda if self.device.type == "cuda" else cpu)

    def tick(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(done, total)


DEFAULTS = InferenceOptions()

"""The encoder as people use it: images as they have them -> features.

B images, C channels, H x W pixels of the network's input, N patches, D width
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..config import ImagesConfig
from ..nn.vit import ViT
from ..weights.load import encoder_of, images_of
from ..weights.locate import open_weights
from .preprocess import Preparation, Some

Pool = Literal["mean", "class", "both", "tokens"]
POOLS = ("mean", "class", "both", "tokens")


class Encoder(ViT):
    """A `ViT`, in eval mode, that also takes images as people have them. Nothing of the network is changed."""

    reading = ImagesConfig()  # how the run's images were read: bits, pages

    @torch.no_grad()
    def features(
        self, images: Some, pool: Pool = "mean", *, batch_size: int = 64, device: str | torch.device | None = None
    ) -> Tensor:
        """Features of images in their order, float32 on the CPU, without masks and gradients.

        images: one or several, of any sizes: paths, PIL images, arrays [H, W], [H, W, C] or [B, H, W, C], tensors
        [C, H, W] or [B, C, H, W]. uint8 and uint16 count from 0 to 255 and 65535, floats from 0 to 1. The largest
        central part with the aspect ratio of the network's input is resized to it (bicubic, antialiased), as for every
        evaluation; the network normalises it.
        pool: mean of the patch tokens [B, D]; class token [B, D]; both, class token first [B, 2 D]; all tokens, class
        token first [B, 1 + N, D].
        device: where to compute; the encoder moves there and stays. None: where it is.

        ValueError, which names the image, when one cannot be read or has other channels.
        """
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}: one of {', '.join(POOLS)}")
        if device is not None:
            self.to(device)
        was_training = self.training
        self.eval()
        found = [self._pooled(views, pool) for _, views in self.preparation.batches(images, batch_size)]
        self.train(was_training)
        return torch.cat(found)

    def _pooled(self, images: Tensor, pool: Pool) -> Tensor:
        class_token, patches = self(images.to(self.mean.device))
        if pool == "tokens":
            return torch.cat([class_token[:, None], patches], dim=1).float().cpu()
        parts = {"mean": (patches.mean(1),), "class": (class_token,), "both": (class_token, patches.mean(1))}[pool]
        return torch.cat(parts, dim=1).float().cpu()

    @property
    def preparation(self) -> Preparation:
        return Preparation(self.config.channels, self.config.image_size, reading=self.reading)


def load(where: str | Path) -> Encoder:
    """The encoder of a run or of weights from elsewhere: a torch module in eval mode, on the CPU. Of a classifier, too:
    `maskery.classifier` gives the whole of it.

    `.features(images)` takes paths, PIL images, arrays and tensors of any sizes; called with images [B, C, H, W] in
    [0, 1] of its own size it gives class token [B, D] and patch tokens [B, N, D].
    """
    encoder = encoder_of(open_weights(Path(where)), kind=Encoder)
    encoder.reading = images_of(Path(where)) or ImagesConfig()
    return encoder

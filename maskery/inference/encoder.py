"""A trained encoder: images of any kind -> features.

B images, C channels, H x W pixels of the network's input, N patches, D width
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..config import DEFAULT_IMAGES, ImagesConfig
from ..evals.eval_pass import eval_mode
from ..nn.vit import ViT
from ..weights.load import build_encoder
from ..weights.locate import open_weights
from .preprocess import ImagesLike, Preprocessing

Pool = Literal["mean", "class", "both", "tokens"]


class Encoder(nn.Module):
    """A vision transformer in eval mode that also takes images of any kind.

    Everything that `ViT` has (`config`, `blocks`, `normalise`, `attend`, ...) can be used on it, and its state dict is
    the one of the ViT, under timm's names.
    """

    def __init__(self, vit: ViT, images: ImagesConfig = DEFAULT_IMAGES):
        super().__init__()
        self.vit, self.images = vit, images  # `images`: bits and pages of the files that it learned from
        self._register_load_state_dict_pre_hook(_add_prefix)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in [0, 1] -> class token [B, D], patch tokens [B, N, D]."""
        return self.vit(images)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name in ("vit", "training") else getattr(self.vit, name)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.vit.state_dict(*args, **kwargs)

    @torch.no_grad()
    def features(
        self, images: ImagesLike, pool: Pool = "mean", *, batch_size: int = 64, device: str | torch.device | None = None
    ) -> Tensor:
        """Compute features of images in their order, float32 on the CPU, without masks and gradients.

        images: one or several, of any sizes: paths, PIL images, arrays [H, W], [H, W, C] or [B, H, W, C], tensors
        [C, H, W] or [B, C, H, W]. uint8 and uint16 count from 0 to 255 and 65535, floats from 0 to 1. The largest
        central part with the aspect ratio of the network's input is resized to it (bicubic, antialiased), as for every
        evaluation; the network normalises it.
        pool: mean of the patch tokens [B, D]; class token [B, D]; both, class token first [B, 2 D]; all tokens, class
        token first [B, 1 + N, D].
        device: where to compute; the encoder moves there and stays. None: where it is.

        ValueError, which names the image, when one cannot be read or has other channels.
        """
        if pool not in get_args(Pool):
            raise ValueError(f"pool is {pool!r}: one of {', '.join(get_args(Pool))}")
        if device is not None:
            self.to(device)
        with eval_mode(self):
            return torch.cat([self._pooled(batch, pool) for _, batch in self.preprocessing.batches(images, batch_size)])

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.vit.config.channels, self.vit.config.image_size, images=self.images)

    def _pooled(self, images: Tensor, pool: Pool) -> Tensor:
        class_token, patches = self.vit(images.to(self.vit.mean.device))
        parts = {"mean": (patches.mean(1),), "class": (class_token,), "both": (class_token, patches.mean(1))}
        return torch.cat(parts.get(pool, (class_token[:, None], patches)), dim=1).float().cpu()


def _add_prefix(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load what `Encoder.state_dict` gives, also as a part of another module."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}vit.{name.removeprefix(prefix)}"] = state.pop(name)


def load(where: str | Path) -> Encoder:
    """The encoder of a run or of weights from elsewhere: a torch module in eval mode, on the CPU. Of a classifier, too:
    `maskery.classifier` gives the whole of it.

    `.features(images)` takes paths, PIL images, arrays and tensors of any sizes; called with images [B, C, H, W] in
    [0, 1] of its own size it gives class token [B, D] and patch tokens [B, N, D].
    """
    weights = open_weights(Path(where))
    return Encoder(build_encoder(weights), weights.images or DEFAULT_IMAGES).eval()

"""The encoder as people use it: images as they have them -> features, prepared exactly as for evaluations.

B images, C channels, H x W pixels of the network's input, N patches, D width
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .config import ImagesConfig
from .data import pixels
from .data.decode import Encoded, Unreadable, open_image, read_header
from .data.picture import Picture, detail
from .data.resample import resized
from .data.views import centre, to_float
from .nn.vit import ViT

One: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
Some: TypeAlias = One | Sequence[One]
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
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1")
        if device is not None:
            self.to(device)
        was_training = self.training
        self.eval()
        found, views = [], []
        for view in (self._view(name, image) for name, image in _each(images)):
            views.append(view)
            if len(views) == batch_size:
                found.append(self._pooled(torch.stack(views), pool))
                views = []
        if views:
            found.append(self._pooled(torch.stack(views), pool))
        self.train(was_training)
        if not found:
            raise ValueError("there are no images to take features of")
        return torch.cat(found)

    def _pooled(self, images: Tensor, pool: Pool) -> Tensor:
        class_token, patches = self(images.to(self.mean.device))
        if pool == "tokens":
            return torch.cat([class_token[:, None], patches], dim=1).float().cpu()
        parts = {"mean": (patches.mean(1),), "class": (class_token,), "both": (class_token, patches.mean(1))}[pool]
        return torch.cat(parts, dim=1).float().cpu()

    def _view(self, name: str, image: One) -> Tensor:
        """One image -> what the network sees of it, [C, H, W] float32 in [0, 1], on the CPU."""
        size, c = self.config.image_size, self.config.channels
        if isinstance(image, Tensor) and image.is_floating_point():
            return _floats(name, image.detach().cpu().float(), c, size)
        try:
            found = self._opened(name, image)
            box = centre(found.height, found.width, size)
            region, place = found.at(detail([box], size)).part(box, size)
        except (Unreadable, OSError) as e:
            raise ValueError(f"{name}: {e}") from e
        return to_float(resized(region, place, False, size)[None], torch.device("cpu"))[0]

    def _opened(self, name: str, image: One) -> Encoded | Picture:
        c = self.config.channels
        if isinstance(image, str | Path):
            data = Path(image).read_bytes()
            bits = self.reading.bits or read_header(data, self.reading.pages).bits
            return open_image(data, channels=c, bits=bits, pages=self.reading.pages)
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
            if c in (1, 3) and not image.mode.startswith("I"):
                image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            image = np.asarray(image).astype(np.uint16 if image.mode.startswith("I") else np.uint8)
        array = image.permute(1, 2, 0).numpy(force=True) if isinstance(image, Tensor) else image
        array = array[:, :, None] if array.ndim == 2 else array
        if array.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"{name}: numbers of type {array.dtype}: uint8, uint16, or floats in [0, 1]")
        if array.shape[2] == 1 and c == 3:
            array = np.repeat(array, 3, axis=2)
        elif array.shape[2] == 3 and c == 1:
            array = pixels.luma(array)
        _refuse_channels(name, array.shape[2], c)
        return Picture.of(array)


def _each(images: Some) -> Iterator[tuple[str, One]]:
    """Every single image, and what to call it."""
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    elif isinstance(images, np.ndarray | Tensor):
        if images.ndim == 4:
            images = list(images)
        elif images.ndim in (2, 3):
            images = [images]
        else:
            raise ValueError(f"an array of shape {[*images.shape]} is neither an image nor a batch of images")
    if not isinstance(images, Iterable):
        raise ValueError(f"images are paths, PIL images, arrays or tensors, not {type(images).__name__}")
    for i, image in enumerate(images):
        name = str(image) if isinstance(image, str | Path) else f"image {i}"
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            image = torch.from_numpy(image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0).copy())
        if not isinstance(image, str | Path | Image.Image | np.ndarray | Tensor):
            raise ValueError(f"{name}: a {type(image).__name__} is no image: a path, PIL image, array or tensor")
        if isinstance(image, Tensor) and image.ndim == 2:
            image = image[None]
        yield name, image


def _floats(name: str, image: Tensor, c: int, size: tuple[int, int]) -> Tensor:
    """[C, H, W] in [0, 1] -> the central part of it at `size`."""
    low, high = (float(x) for x in image.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: floats from {low:g} to {high:g}: they have to lie in [0, 1], not normalised")
    image = image.expand(3, -1, -1) if len(image) == 1 and c == 3 else image
    _refuse_channels(name, len(image), c)
    left, top, right, bottom = (int(edge) for edge in centre(image.shape[1], image.shape[2], size))
    image = image[:, top:bottom, left:right]
    if image.shape[1:] == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _refuse_channels(name: str, have: int, want: int) -> None:
    if have != want:
        raise ValueError(f"{name}: {have} channels, the network looks at {want}")

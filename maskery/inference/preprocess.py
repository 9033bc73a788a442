"""Images of any kind -> the network's input, cut and resized as for evaluations.

C channels, H x W pixels of the network's input
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..config import ImagesConfig
from ..data.crops import CenterCrop, center_box, resize_size
from ..data.decode import pixels
from ..data.decode.image import Encoded, open_image, read_header
from ..data.decode.picture import Picture
from ..data.decode.unreadable import Unreadable
from ..data.views import to_float

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
ImagesLike: TypeAlias = ImageLike | Sequence[ImageLike]


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input of a network."""

    channels: int
    size: tuple[int, int]  # (height, width) of the input in pixels
    crop_fraction: float = 1.0  # the part of the resized image that the centre crop keeps
    images: ImagesConfig = field(default_factory=ImagesConfig)  # bits and pages of files

    def batches(self, images: ImagesLike, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
        """Yield names and [b, C, H, W] float32 in [0, 1], on the CPU, in the images' order; see `Encoder.features`.

        ValueError, which names the image, when one cannot be read or has other channels; when there is none.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1")
        named, empty = _named(images), True
        while batch := list(islice(named, batch_size)):
            empty = False
            yield [name for name, _ in batch], torch.stack([self.input(name, image) for name, image in batch])
        if empty:
            raise ValueError("there are no images")

    def input(self, name: str, image: ImageLike) -> Tensor:
        """One image -> the network's input [C, H, W], float32 in [0, 1], on the CPU."""
        if isinstance(image, Tensor) and image.is_floating_point():
            return self._cut_floats(name, image.detach().cpu().float())
        try:
            picture = self._opened(name, image)
            view = CenterCrop(self.size, self.crop_fraction)(picture.height, picture.width)
            picture = picture.at(view.detail)
        except (Unreadable, OSError) as e:
            raise ValueError(f"{name}: {e}") from e
        return to_float(view.pixels(picture)[None], torch.device("cpu"))[0]

    def _opened(self, name: str, image: ImageLike) -> Encoded | Picture:
        c = self.channels
        if isinstance(image, str | Path):
            data, pages = Path(image).read_bytes(), self.images.pages
            return open_image(data, channels=c, bits=self.images.bits or read_header(data, pages).bits, pages=pages)
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
        _check_channels(name, array.shape[2], c)
        return Picture.of(array)

    def _cut_floats(self, name: str, image: Tensor) -> Tensor:
        """Cut and resize [C, H, W] in [0, 1] in the same way, without rounding to levels."""
        low, high = (float(x) for x in image.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name}: floats from {low:g} to {high:g}: they have to lie in [0, 1], not normalised")
        image = image.expand(3, -1, -1) if len(image) == 1 and self.channels == 3 else image
        _check_channels(name, len(image), self.channels)
        covering = resize_size(self.size, self.crop_fraction)
        left, top, right, bottom = (int(edge) for edge in center_box(image.shape[1], image.shape[2], covering))
        image = image[:, top:bottom, left:right]
        if image.shape[1:] != covering:
            image = F.interpolate(image[None], covering, mode="bicubic", antialias=True)[0].clamp(0, 1)
        top, left = ((b - s) // 2 for b, s in zip(covering, self.size, strict=True))
        return image[:, top : top + self.size[0], left : left + self.size[1]]


def _named(images: ImagesLike) -> Iterator[tuple[str, ImageLike]]:
    """Yield every single image with a name."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim not in (2, 3, 4):
        raise ValueError(f"an array of shape {[*images.shape]} is neither an image nor a batch of images")
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        images = [images]
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


def _check_channels(name: str, channels: int, expected: int) -> None:
    if channels != expected:
        raise ValueError(f"{name}: {channels} channels, the network looks at {expected}")

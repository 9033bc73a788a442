"""Images to evaluate on: each once, in order, without augmentation.

b images of a batch, C channels, h x w pixels of a view
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .crops import EvalCrop, ViewBox
from .decode.image import Encoded
from .decode.picture import Box, Picture
from .images import Images, Skips
from .resample import ViewFormat, resized
from .views import CPU, RegionBuffer, ViewStack


class EvalDataset(Dataset[dict[str, Any]]):
    """Item k: the k-th batch of `indices`; images that cannot be read are left out and named.

    {"images": views as in `TrainDataset`, a list where they have no common size, None where no image can be read,
    "sizes" [b, 2] (height, width) of what each image fills of its view, "indices" [b], "skipped",
    "targets": what `target` returned for each image}
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        crop: EvalCrop,
        batch: int,
        device: torch.device = CPU,
        target: Callable[[int, Encoded | Picture], Any] | None = None,
    ):
        """`target` sees each image before it is decoded, and may raise `Unreadable`."""
        self.images, self.indices, self.crop, self.batch = images, indices, crop, batch
        self.device, self.target = device, target
        self.fill = None if crop.fill is None else images.coloured(crop.fill)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, k: int) -> dict[str, Any]:
        wanted = self.indices[k * self.batch : (k + 1) * self.batch]
        if len(wanted) and np.ptp(wanted) < 8 * len(wanted):  # a few of many are better read one by one
            self.images.source.expect(wanted)
        views = self._batch(len(wanted))
        read, sizes, targets = [], [], []
        skipped: Skips = []
        for i, (picture, view, target) in self.images.readable(wanted.tolist(), self._read, skipped):
            views.add(*view.region(picture), view)
            sizes.append(view.size)
            targets.append(target)
            read.append(i)
        return {
            "images": views.done() if read else None,
            "sizes": torch.tensor(sizes).view(-1, 2),
            "indices": np.array(read, dtype=np.int64),
            "skipped": skipped,
            "targets": targets,
        }

    def _batch(self, count: int) -> "RegionBuffer | ViewStack | _ViewList":
        if not self.crop.stacked:
            return _ViewList()
        form = ViewFormat(self.crop.size, self.images.channels, self.images.bits)
        if self.device.type == "cuda" and self.fill is None:
            return RegionBuffer(form, count)
        return ViewStack(form, count, self.fill)

    def _read(self, i: int) -> tuple[Picture, ViewBox, Any]:
        image = self.images.open(i)
        target = self.target(i, image) if self.target else None
        view = self.crop(image.height, image.width)
        return image.at(view.detail), view, target


class _ViewList:
    """Views of different sizes."""

    def __init__(self) -> None:
        self._views: list[Tensor] = []

    def add(self, region: np.ndarray, box: Box, view: ViewBox) -> None:
        self._views.append(resized(region, box, view.flip, view.size))

    def done(self) -> list[Tensor]:
        return self._views

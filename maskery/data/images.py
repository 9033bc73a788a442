"""The decoded images of a source, kept in memory when they fit, so that nothing is decoded twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..distributed import World
from .decode.image import Encoded, Pages, decode_picture, open_image
from .decode.picture import Picture
from .decode.unreadable import Unreadable, reason
from .memory_cache import Decoder, MemoryCache, Progress, fill_cache
from .sources.source import Source

T = TypeVar("T")
Skips = list[tuple[str, str]]  # (name, reason) of images that could not be read


class Images:
    """Image i of a source, [H, W, C] of uint8 or uint16; `Unreadable` when it cannot be read.

    Those in memory and `images[i]` are reduced, but never to a short side below `min_side` unless they are smaller
    themselves: a crop of 20 % of the area of an image twice as large as the view still has about as many pixels as the
    view. Those that are decoded for a crop are reduced no further than that crop allows.
    """

    def __init__(self, source: Source, *, channels: int, bits: int, pages: Pages, min_side: int):
        self.source, self.channels, self.bits, self.min_side = source, channels, bits, min_side
        self.pages: Pages = pages
        self.memory: MemoryCache | None = None
        self.not_in_memory = ""  # the reason for None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.picture(i).array

    def open(self, i: int) -> Encoded | Picture:
        """Image i with its size; its pixels may still have to be decoded: `.at(detail).region(box, size)`."""
        if self.memory is not None and i in self.memory:
            return self.memory[i]
        try:
            data = self.source.read(i)
        except OSError as e:
            raise Unreadable(reason(e)) from e
        sizes, full = self.source.full_sizes, None
        if sizes is not None and sizes[i].all():
            full = (int(sizes[i, 0]), int(sizes[i, 1]))
        return open_image(data, channels=self.channels, bits=self.bits, pages=self.pages, full=full)

    def picture(self, i: int) -> Picture:
        """Image i, reduced as `min_side` says."""
        image = self.open(i)
        return image if isinstance(image, Picture) else decode_picture(image, self.min_side)

    def readable(self, indices: Iterable[int], read: Callable[[int], T], skipped: Skips) -> Iterator[tuple[int, T]]:
        """Yield (i, `read(i)`) for every image that can be read, in order; list the others in `skipped`."""
        for i in indices:
            try:
                value = read(i)
            except Unreadable as error:
                skipped.append((self.source.names[i], str(error)))
                continue
            yield i, value

    def coloured(self, colour: Sequence[float]) -> Tensor:
        """[C, 1, 1] of the images' dtype: one colour, given in [0, 1]."""
        top, dtype = (255, torch.uint8) if self.bits == 8 else (65535, torch.uint16)
        return torch.tensor([round(top * c) for c in colour]).to(dtype)[:, None, None]

    def keep_in_memory(
        self, indices: Sequence[int], budget: float, progress: Progress | None = None, world: World | None = None
    ) -> bool:
        """Decode `indices` into memory that all processes of this machine share; they call this together.

        False when that would take more than `budget` bytes of the machine, or without shared memory: `not_in_memory`
        is the reason.
        """
        decoder = Decoder(self.picture, len(self), self.bits, self.source.expect)
        self.memory, self.not_in_memory = fill_cache(decoder, indices, budget, world, progress)
        return self.memory is not None

    def unreadable(self) -> list[tuple[str, str]]:
        """(name, reason) of the images in memory that could not be read."""
        return [(self.source.names[i], why) for i, why in sorted(self.memory.problems.items())] if self.memory else []

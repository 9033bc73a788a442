"""The decoded images of a source, kept in memory when they fit, so that nothing is decoded twice."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .decode import Unreadable, decode
from .source import Source
from .survey import Pages, reason

Progress = Callable[[int, int], None]  # (done, total)


class Images:
    """Image i of a source as an array [H, W, C], uint8 or uint16; `Unreadable` when it cannot be read.

    Images come reduced, but never with a short side below `min_side` unless they are smaller themselves: a crop of
    20 % of the area of an image twice as large as the view still has about as many pixels as the view.
    """

    def __init__(self, source: Source, *, channels: int, bits: int, pages: Pages, min_side: int):
        self.source, self.channels, self.bits, self.min_side = source, channels, bits, min_side
        self.pages: Pages = pages
        self.kept: dict[int, np.ndarray | Unreadable] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        image = self.kept.get(i)
        if image is None:
            return self.decode(i)
        if isinstance(image, Unreadable):
            raise image
        return image

    def decode(self, i: int) -> np.ndarray:
        try:
            data = self.source.read(i)
        except OSError as e:
            raise Unreadable(reason(e)) from e
        return decode(data, channels=self.channels, bits=self.bits, pages=self.pages, min_side=self.min_side)

    def keep(self, indices: Iterable[int], budget: float, progress: Progress | None = None) -> bool:
        """Decode `indices` into memory; False, and nothing is kept, when that would take more than `budget` bytes."""
        wanted = list(indices)
        used = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter lock while it decodes
            for start in range(0, len(wanted), 256):
                part = wanted[start : start + 256]
                for i, image in zip(part, pool.map(self._try, part), strict=True):
                    self.kept[i] = image
                    used += image.nbytes if isinstance(image, np.ndarray) else 0
                if used > budget or used / (start + len(part)) * len(wanted) > 1.5 * budget:
                    self.kept = {}
                    return False
                if progress:
                    progress(start + len(part), len(wanted))
        return True

    def _try(self, i: int) -> np.ndarray | Unreadable:
        try:
            return self.decode(i)
        except Unreadable as e:
            return e

    def unreadable(self) -> list[tuple[str, str]]:
        """(name, reason) of the images in memory that could not be read."""
        return [(self.source.names[i], str(e)) for i, e in self.kept.items() if isinstance(e, Unreadable)]

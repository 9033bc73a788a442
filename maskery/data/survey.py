"""Survey the images before training: sizes, channels, depth, unreadable files, duplicates, counts of labels."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..terminal import Tick, no_progress
from ..text import count, plain
from .decode.image import Header, Pages, decode, read_header
from .decode.unreadable import Unreadable, reason
from .sources.labels import annotated
from .sources.source import Source

SAMPLE = 1000  # images that are looked at unless a caller wants others
T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """What a source holds. All but `images`, `duplicates` and `leaks` speak of the `sampled` images."""

    images: int
    sampled: int  # readable or not
    heights: tuple[int, int, int]  # least, median, greatest of the readable ones, pixels
    widths: tuple[int, int, int]
    channels: dict[int, int]  # channels -> images, the most frequent first
    bits: dict[int, int]
    formats: dict[str, int]
    pages: int  # of the file with the most
    unreadable: tuple[tuple[str, str], ...]  # (name, reason)
    duplicates: tuple[tuple[str, ...], ...] | None  # names of files that are the same byte for byte; None: not compared
    leaks: tuple[tuple[str, ...], ...] = ()  # those of `duplicates` that lie in more than one split

    @property
    def channels_suggested(self) -> int:
        """n where most images have n bands, else 1 if all are grey, else 3."""
        most = next(iter(self.channels), 3)
        if most not in (1, 3):
            return most
        return 1 if set(self.channels) == {1} else 3

    @property
    def bits_suggested(self) -> int:
        """16 if any image has 16 bits."""
        return max(self.bits, default=8)

    def lines(self) -> list[str]:
        """The survey in sentences for a terminal."""
        part = "" if self.sampled == self.images else f", of which {self.sampled:,} were looked at"
        lines = [f"{count(self.images, 'image')}{part}"]
        if self.sampled > len(self.unreadable):
            formats = ", ".join(f"{name} {n:,}" for name, n in self.formats.items())
            height, width = (", ".join(map(str, sizes)) for sizes in (self.heights, self.widths))
            lines.append(f"sizes (least, median, greatest): height {height}, width {width}")
            lines.append(f"formats: {formats}; channels: {_parts(self.channels)}; bits: {_parts(self.bits)}")
            if self.pages > 1:
                lines.append(f"files of up to {self.pages} pages")
        if self.unreadable:
            percent = 100 * len(self.unreadable) / self.sampled
            lines.append(f"{len(self.unreadable):,} of {self.sampled:,} cannot be read ({percent:.1f} %):")
            lines += [f"  {plain(name)}: {why}" for name, why in self.unreadable[:5]]
            if len(self.unreadable) > 5:
                lines.append(f"  and {len(self.unreadable) - 5:,} more")
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            lines.append(f"{count(extra, 'file')} the same as another one, byte for byte:")
            lines += [f"  {_equation(group)}" for group in self.duplicates[:3]]
        elif self.duplicates is not None:
            lines.append("no two files are the same byte for byte")
        if self.leaks:
            lines.append(
                f"WARNING: {count(len(self.leaks), 'image')} in more than one split; what is measured on held-out "
                "images is too good by these:"
            )
            lines += [f"  {_equation(group)}" for group in self.leaks[:3]]
        return lines


def survey(
    source: Source,
    *,
    sample: int | None = SAMPLE,
    pages: Pages = "first",
    duplicates: bool = False,
    progress: Tick = no_progress,
) -> Survey:
    """Decode `sample` images spread evenly over the source, or all (None).

    `duplicates` compares every file, whatever the sample. `progress` is called from this thread.
    """
    indices = evenly(len(source), sample)
    total = len(indices) + (len(source) if duplicates else 0)
    headers: list[Header] = []
    unreadable: list[tuple[str, str]] = []
    for done, header in enumerate(_each(lambda i: _checked_header(source, i, pages), indices), 1):
        if isinstance(header, Header):
            headers.append(header)
        else:
            unreadable.append((source.names[int(indices[done - 1])], header))
        progress(done, total)
    same = _duplicates(source, lambda done: progress(len(indices) + done, total)) if duplicates else []
    leaks = [] if source.splits is None else [g for g in same if len({source.splits[i] for i in g}) > 1]
    return Survey(
        images=len(source),
        sampled=len(indices),
        heights=_range([header.height for header in headers]),
        widths=_range([header.width for header in headers]),
        channels=_counts([header.channels for header in headers]),
        bits=_counts([header.bits for header in headers]),
        formats=_counts([header.format for header in headers]),
        pages=max((header.pages for header in headers), default=0),
        unreadable=tuple(unreadable),
        duplicates=_named(source, same) if duplicates else None,
        leaks=_named(source, leaks),
    )


def _checked_header(source: Source, i: int, pages: Pages) -> Header | str:
    """The header of an image whose pixels can be decoded, else the reason why not."""
    try:
        data = source.read(i)
        header = read_header(data, pages)
        # min_side: damage shows at any scale, and small pictures are made faster.
        decode(data, channels=header.channels, bits=header.bits, pages=pages, min_side=64)
    except (Unreadable, OSError) as error:
        return reason(error)
    return header


def _duplicates(source: Source, progress: Callable[[int], None]) -> list[list[int]]:
    """Groups of images whose files are the same byte for byte."""

    def digest(i: int) -> bytes:
        try:
            return hashlib.blake2b(source.read(i), digest_size=16).digest()
        except OSError:
            return b""

    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(_each(digest, range(len(source)))):
        groups.setdefault(key, []).append(i)
        progress(i + 1)
    groups.pop(b"", None)
    return [group for group in groups.values() if len(group) > 1]


def mean_and_std(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    channels: int,
    bits: int,
    pages: Pages = "first",
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) per channel of values in [0, 1] (v / 255 or v / 65535).

    Over SAMPLE of `indices` spread evenly, without those that cannot be read. Every image counts the same, whatever
    its size; large ones are reduced to a short side of 256 pixels or more first, about what a network sees of them.
    A channel that never changes has deviation 0. Raises ValueError when no image can be read.
    """
    sample = np.asarray(indices, np.int64)[evenly(len(indices), SAMPLE)]
    full = 255.0 if bits == 8 else 65535.0

    def moments(i: int) -> np.ndarray | None:  # [2, channels]: means of values and of squares
        try:
            image = decode(source.read(i), channels=channels, bits=bits, pages=pages, min_side=256)
        except (Unreadable, OSError):
            return None
        values = image.reshape(-1, channels).astype(np.float64) / full
        return np.stack([values.mean(0), np.square(values).mean(0)])

    readable = [m for m in _each(moments, sample) if m is not None]
    if not readable:
        raise ValueError(f"none of {len(sample)} images of {source.where} can be read with {channels} channels")
    mean, square = np.mean(readable, axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def evenly(n: int, sample: int | None) -> np.ndarray:
    """At most `sample` of the positions 0 .. n - 1, evenly spread, int64; None: all."""
    if sample is None or sample >= n:
        return np.arange(n, dtype=np.int64)
    return np.linspace(0, n - 1, sample).round().astype(np.int64)


def label_lines(source: Source) -> list[str]:
    """The labels and how many images have each, in sentences for a terminal."""
    if source.multi_hot is not None:
        numbers, without = (source.multi_hot == 1).sum(0), int((~annotated(source.multi_hot)).sum())
        mean = numbers.sum() / max(len(source) - without, 1)
        missing = count(without, "image")
        head = [f"{count(len(source.classes), 'label')}, {mean:.2f} an image on average; {missing} without annotation"]
    elif source.labels is not None:
        head, numbers = [], np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    else:
        return []
    return head + [f"  {plain(name)}: {n:,}" for name, n in zip(source.classes, numbers.tolist(), strict=True)]


def _each(work: Callable[[int], T], indices: Sequence[int] | np.ndarray) -> Iterator[T]:
    """work(i) for each i, in order, on threads: Pillow and hashlib let go of the interpreter lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), 4096):  # a million futures at once would take gigabytes
            yield from pool.map(work, [int(i) for i in indices[start : start + 4096]])


def _range(values: list[int]) -> tuple[int, int, int]:
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)


def _counts(values: list) -> dict:
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


def _named(source: Source, groups: list[list[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(source.names[i] for i in group) for group in groups)


def _parts(counts: dict[int, int]) -> str:
    """One kind: itself; several: each with its number of images."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{kind} in {n:,}" for kind, n in counts.items())


def _equation(names: tuple[str, ...]) -> str:
    more = f" = and {len(names) - 4} more" if len(names) > 4 else ""
    return " = ".join(map(plain, names[:4])) + more

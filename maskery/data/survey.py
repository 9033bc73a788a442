"""A look at the images before training: sizes, channels, depth, what cannot be read, what is there twice."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from .decode.image import Header, Unreadable, decode, read_header
from .sources.labels import annotated
from .sources.names import raw
from .sources.source import Source

Pages = Literal["first", "channels"]
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    name: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What a source holds. All but `images`, `duplicates` and `leaks` speak of the `looked_at` images."""

    images: int
    looked_at: int  # readable or not
    heights: tuple[int, int, int]  # least, median, greatest of the readable ones, pixels
    widths: tuple[int, int, int]
    channels: dict[int, int]  # channels -> images, the most frequent first
    bits: dict[int, int]
    formats: dict[str, int]
    pages: int  # of the file with the most
    skipped: tuple[Skipped, ...]  # what could not be read
    duplicates: tuple[tuple[str, ...], ...]  # names of files that are the same byte for byte
    leaks: tuple[tuple[str, ...], ...] = ()  # those of `duplicates` that lie in more than one split
    searched: bool = False  # duplicates were looked for

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
        readable = self.looked_at - len(self.skipped)
        part = "" if self.looked_at == self.images else f", of which {self.looked_at:,} were looked at"
        lines = [f"{_count(self.images, 'image')}{part}"]
        if readable:
            formats = ", ".join(f"{name} {n:,}" for name, n in self.formats.items())
            lines.append(f"sizes (least, median, greatest): height {_three(self.heights)}, width {_three(self.widths)}")
            lines.append(f"formats: {formats}; channels: {_parts(self.channels)}; bits: {_parts(self.bits)}")
            if self.pages > 1:
                lines.append(f"files of up to {self.pages} pages")
        if self.skipped:
            share = 100 * len(self.skipped) / self.looked_at
            lines.append(f"{len(self.skipped):,} of {self.looked_at:,} cannot be read ({share:.1f} %):")
            lines += [f"  {shown(s.name)}: {s.reason}" for s in self.skipped[:5]]
            if len(self.skipped) > 5:
                lines.append(f"  and {len(self.skipped) - 5:,} more")
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            lines.append(f"{_count(extra, 'file')} the same as another one, byte for byte:")
            lines += [f"  {_same(group)}" for group in self.duplicates[:3]]
        elif self.searched:
            lines.append("no two files are the same byte for byte")
        if self.leaks:
            lines.append(
                f"WARNING: {_count(len(self.leaks), 'image')} in more than one split; what is measured on held-out "
                "images is too good by these:"
            )
            lines += [f"  {_same(group)}" for group in self.leaks[:3]]
        return lines


def survey(
    source: Source,
    *,
    sample: int | None = 1000,
    decode_pixels: bool = True,
    pages: Pages = "first",
    duplicates: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at `sample` images spread evenly over the source, or at all (None).

    `decode_pixels` finds damaged pixels, otherwise only headers are parsed. `duplicates` reads every file, whatever the
    sample. `progress` (done, total) is called from this thread. `threads` None: as many as there are cores, up to 8.
    """
    looked_at = evenly(len(source), sample)
    total = len(looked_at) + (len(source) if duplicates else 0)

    def look(i: int) -> Header | Skipped:
        try:
            data = source.read(i)
            header = read_header(data, pages)
            if decode_pixels:
                # min_side: damage shows at any scale, and small pictures are made faster.
                decode(data, channels=header.channels, bits=header.bits, pages=pages, min_side=64)
        except (Unreadable, OSError) as error:
            return Skipped(source.names[i], reason(error))
        return header

    def digest(i: int) -> bytes:
        try:
            return hashlib.blake2b(source.read(i), digest_size=16).digest()
        except OSError:
            return b""

    found: list[Header] = []
    skipped: list[Skipped] = []
    for done, header in enumerate(_each(look, looked_at, threads), 1):
        if isinstance(header, Skipped):
            skipped.append(header)
        else:
            found.append(header)
        if progress:
            progress(done, total)
    groups: dict[bytes, list[int]] = {}
    if duplicates:
        for i, key in enumerate(_each(digest, range(len(source)), threads)):
            groups.setdefault(key, []).append(i)
            if progress:
                progress(len(looked_at) + i + 1, total)
        groups.pop(b"", None)
    same = [group for group in groups.values() if len(group) > 1]
    leaks = [] if source.splits is None else [g for g in same if len({source.splits[i] for i in g}) > 1]
    return Survey(
        images=len(source),
        looked_at=len(looked_at),
        heights=_spread([header.height for header in found]),
        widths=_spread([header.width for header in found]),
        channels=_counts([header.channels for header in found]),
        bits=_counts([header.bits for header in found]),
        formats=_counts([header.format for header in found]),
        pages=max((header.pages for header in found), default=0),
        skipped=tuple(skipped),
        duplicates=_named(source, same),
        leaks=_named(source, leaks),
        searched=duplicates,
    )


def measure(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    channels: int,
    bits: int,
    pages: Pages = "first",
    sample: int | None = 1000,
    threads: int | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) per channel of values in [0, 1] (v / 255 or v / 65535).

    Over `sample` of `indices` spread evenly, without those that cannot be read. Every image counts the same, whatever
    its size; large ones are reduced to a short side of 256 pixels or more first, about what a network sees of them.
    A channel that never changes has deviation 0. Raises ValueError when no image can be read.
    """
    chosen = np.asarray(indices, np.int64)[evenly(len(indices), sample)]
    full = 255.0 if bits == 8 else 65535.0

    def moments(i: int) -> np.ndarray | None:  # [2, channels]: means of values and of squares
        try:
            image = decode(source.read(i), channels=channels, bits=bits, pages=pages, min_side=256)
        except (Unreadable, OSError):
            return None
        values = image.reshape(-1, channels).astype(np.float64) / full
        return np.stack([values.mean(0), np.square(values).mean(0)])

    found = [m for m in _each(moments, chosen.tolist(), threads) if m is not None]
    if not found:
        raise ValueError(f"none of {len(chosen)} images of {source.where} can be read with {channels} channels")
    mean, square = np.mean(found, axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def evenly(n: int, sample: int | None) -> np.ndarray:
    """At most `sample` of the positions 0 .. n - 1, evenly spread, int64; None: all."""
    if sample is None or sample >= n:
        return np.arange(n, dtype=np.int64)
    return np.linspace(0, n - 1, sample).round().astype(np.int64)


def reason(error: Exception) -> str:
    """Why an image could not be read, for people: one line, without the file's name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def shown(name: str) -> str:
    """A name as it can be printed on one line: bytes that are no UTF-8 and control characters as escapes."""
    text = raw(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def label_lines(source: Source) -> list[str]:
    """What images are labelled as, and how many, in sentences for a terminal."""
    if source.multi_hot is not None:
        numbers, without = (source.multi_hot == 1).sum(0), int((~annotated(source.multi_hot)).sum())
        mean = numbers.sum() / max(len(source) - without, 1)
        said = f"{mean:.2f} an image on average; {_count(without, 'image')} without annotation"
        head = [f"{_count(len(source.classes), 'label')}, {said}"]
    elif source.labels is not None:
        head, numbers = [], np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    else:
        return []
    return head + [f"  {shown(name)}: {n:,}" for name, n in zip(source.classes, numbers.tolist(), strict=True)]


def _each(work: Callable[[int], T], indices: Sequence[int] | np.ndarray, threads: int | None) -> Iterator[T]:
    """work(i) for each i, in order, on threads: Pillow and hashlib let go of the interpreter lock."""
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), 4096):  # a million futures at once would take gigabytes
            yield from pool.map(work, [int(i) for i in indices[start : start + 4096]])


def _spread(values: list[int]) -> tuple[int, int, int]:
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)


def _counts(values: list) -> dict:
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


def _named(source: Source, groups: list[list[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(source.names[i] for i in group) for group in groups)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _three(values: tuple[int, int, int]) -> str:
    return f"{values[0]}, {values[1]}, {values[2]}"


def _parts(counts: dict[int, int]) -> str:
    """One kind: itself; several: each with its number of images."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{kind} in {n:,}" for kind, n in counts.items())


def _same(group: tuple[str, ...]) -> str:
    more = f" = and {len(group) - 4} more" if len(group) > 4 else ""
    return " = ".join(map(shown, group[:4])) + more

"""Names of images: many strings in little memory, and their hashes."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...text import to_bytes, to_text


class StringArray(Sequence[str]):
    """Strings in one block of bytes and an array of offsets: their length and 8 bytes each.

    Strings are UTF-8; bytes that are not (file names may hold any) become Python's surrogate escapes. `blob`: all
    strings end to end. `offsets`: int64 [n + 1], the start of each, and the end. `hashed`: uint64 [n], the result of
    `hashes` where it is known already: a million take a second.
    """

    def __init__(self, blob: bytes, offsets: np.ndarray, hashed: np.ndarray | None = None):
        self.blob, self.offsets, self.hashed = blob, offsets, hashed

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> "StringArray":
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
        return cls(b"".join(parts), offsets)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "StringArray":
        """Of what `arrays` returned, perhaps with other arrays beside it."""
        return cls(arrays["names"].tobytes(), arrays["offsets"], arrays["hashes"])

    def arrays(self) -> dict[str, Any]:
        """The strings with their hashes, as a `.npz` file holds them."""
        return {"names": np.frombuffer(self.blob, np.uint8), "offsets": self.offsets, "hashes": hashes(self)}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def raw(self, i: int) -> bytes:
        """The bytes of string `i`, 0 <= i < n."""
        return self.blob[self.offsets[i] : self.offsets[i + 1]]

    def all_raw(self) -> Iterator[bytes]:
        return (self.blob[a:b] for a, b in itertools.pairwise(self.offsets.tolist()))

    def __getitem__(self, i: int) -> str:  # type: ignore[override]  # no slices: they would be lists of Python strings
        if not -len(self) <= i < len(self):
            raise IndexError(f"name {i} of {len(self)}")
        return to_text(self.raw(i % len(self)))

    def __iter__(self) -> Iterator[str]:
        return map(to_text, self.all_raw())


def unique(parts: list[bytes]) -> list[bytes]:
    """Number repeated names: the second becomes "name#2", the third "name#3"; a name that is taken is passed over."""
    taken = set(parts)
    if len(taken) == len(parts):
        return parts
    seen: dict[bytes, int] = {}
    out = []
    for part in parts:
        count = seen.get(part, 0) + 1
        fresh = part
        while count > 1 and (fresh := part + b"#%d" % count) in taken:
            count += 1
        seen[part] = count
        taken.add(fresh)
        out.append(fresh)
    return out


def all_bytes(names: Sequence[str]) -> Iterable[bytes]:
    return names.all_raw() if isinstance(names, StringArray) else map(to_bytes, names)


def hashes(names: Sequence[str]) -> np.ndarray:
    """uint64 [n]: BLAKE2b of each name's UTF-8 bytes with 8 bytes of digest, big-endian. The same on every machine."""
    if isinstance(names, StringArray) and names.hashed is not None:
        return names.hashed
    return digests(all_bytes(names), 8).view(">u8").astype(np.uint64)[:, 0]


def digests(parts: Iterable[bytes], size: int) -> np.ndarray:
    """uint8 [n, size]: BLAKE2b of each part."""
    blake = hashlib.blake2b
    return np.frombuffer(b"".join([blake(p, digest_size=size).digest() for p in parts]), np.uint8).reshape(-1, size)


def absolute(path: str | os.PathLike[str]) -> str:
    """The absolute path, symlinks unresolved, "~" expanded; a URL without the slashes at its end."""
    if "://" in os.fspath(path):
        return os.fspath(path).rstrip("/")
    return os.path.abspath(os.path.expanduser(path))

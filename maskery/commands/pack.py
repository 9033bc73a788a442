"""`maskery pack`: write a faster copy of a data set."""

from pathlib import Path

from ..config import DEFAULT_IMAGES, ImagesConfig
from ..data.pack.encode import Encoding, Format
from ..data.pack.remote import is_url
from ..data.pack.writer import PackOptions, pack_source
from ..data.sources.open import open_source
from ..terminal import Terminal


def pack(
    data: str,
    out: Path,
    short_side: int = 256,
    format: Format = "jpeg",
    quality: int = 90,
    shard_mb: int = 256,
    workers: int | None = None,
    overwrite: bool = False,
    images: ImagesConfig = DEFAULT_IMAGES,
) -> Path:
    """A faster copy of a data set: upright, at a short side of your choice, in Arrow shards that other tools read.
    Interrupted, the same command goes on.

    Args:
        data: folder, list or table of images
        out: directory to write
        short_side: pixels; smaller images are not enlarged; 0: full size
        format: jpeg (16 bits, alpha and many bands are packed without loss), or raw pixels
        quality: of JPEG, 1 to 100
        shard_mb: megabytes of a shard
        workers: processes; None: one a core
        overwrite: replace the pack that is in `out`
        images: how the data is read
    """
    encoding = Encoding(short_side, format, quality, images.channels, images.bits, images.pages)
    if is_url(out):
        raise ValueError(f"{out}: a pack is written to a local directory; copy it to where it is to be read from")
    terminal = Terminal()
    source = open_source(data, images, terminal)
    options = PackOptions(encoding, shard_mb, workers, images.unreadable, overwrite)
    packed, encodings = pack_source(source, out, options, terminal)
    size = sum(shard.bytes for shard in packed.manifest.shards) / 1e9
    print(
        f"{out}: {len(packed):,} images in {len(packed.manifest.shards)} shards, {size:.2f} GB "
        f"({', '.join(f'{name} {n:,}' for name, n in encodings.most_common()) or 'none readable'})"
    )
    if packed.manifest.unreadable:
        print(f"{packed.manifest.unreadable:,} could not be read: {out / 'skipped.jsonl'}")
    return out

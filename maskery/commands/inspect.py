"""`maskery inspect`: print counts, sizes, channels, unreadable files and duplicates of a data set."""

from ..config import DEFAULT_IMAGES, ImagesConfig
from ..data.sources.open import open_source
from ..data.survey import label_lines, survey
from ..terminal import Terminal


def inspect(data: str, images: ImagesConfig = DEFAULT_IMAGES) -> None:
    """What is in there: counts, sizes, channels, unreadable files, duplicates. Every image is decoded.

    Args:
        data: folder, list or table of images
        images: how the data is read
    """
    terminal = Terminal()
    source = open_source(data, images, terminal)
    with terminal.bar("looking at images") as tick:
        summary = survey(source, sample=None, pages=images.pages, duplicates=True, progress=tick)
    with terminal.bar("comparing checksums") as tick:
        damaged = source.damaged(tick)
    for line in (*source.notes, *summary.lines(), *label_lines(source)):
        print(line)
    if damaged:
        raise ValueError(f"{data}: {'; '.join(damaged)}")

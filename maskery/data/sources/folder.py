"""A folder of images, however nested; classes and splits from its layout where it has one."""

import numpy as np

from .labels import sorted_classes
from .names import text
from .scan import IMAGES, Scan
from .source import SPLITS, Source, read_file


class FolderSource(Source):
    """The images below a folder, named by their paths relative to it, sorted."""

    def __init__(self, where: str, found: Scan, *, labels: bool = True):
        self.where = where
        self.names = self._paths = found.names
        self.splits, rest = _splits(found)
        notes = []
        if self.splits is not None:
            notes.append(f"splits from the folders {_listed(sorted({f.partition(b'/')[0] for f in found.folders}))}")
        self.labels, self.classes = None, ()
        if labels:
            self.labels, self.classes, note = _labels(found, rest)
            notes.append(note)
        ignored = sum(found.others.values()) + len(found.tables)
        if ignored:
            notes.append(f"ignored {_count(ignored, 'file')} that {'is no image' if ignored == 1 else 'are no images'}")
        if found.problems:
            notes.append(f"{_count(len(found.problems), 'folder')} could not be listed: {found.problems[0]}")
        self.notes = tuple(notes)

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))


def _splits(found: Scan) -> tuple[np.ndarray | None, list[tuple[bytes, bytes]]]:
    """(splits [n] or None, for each folder its split, b"" = none, and the path below that)."""
    heads = [folder.partition(b"/") for folder in found.folders]
    named = [SPLITS.get(text(head).lower()) for head, _, _ in heads]
    if None in named:
        return None, [(b"", folder) for folder in found.folders]
    return np.array(named, object)[found.folder], [(head, rest) for head, _, rest in heads]


def _labels(found: Scan, rest: list[tuple[bytes, bytes]]) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """(labels [n] or None, classes, a note saying what was found or why not)."""
    flat = {split for split, below in rest if not below}  # splits with images outside any class folder
    names = {text(below) for _, below in rest if below}
    deepest = max(rest, key=lambda pair: pair[1].count(b"/"))
    if not names:
        return None, (), "no classes: the images lie in no folders of their own"
    if b"/" in deepest[1]:
        path = text(b"/".join(part for part in deepest if part))
        return None, (), f"no classes: folders are nested ({path}); a list or table with a label column can name them"
    if any(split in flat for split, below in rest if below):
        return None, (), "no classes: some images lie beside the folders"
    if len(names) == 1:
        return None, (), f"no classes: all images lie in one folder, {next(iter(names))}"
    if len(names) > len(found.names) / 2:
        return None, (), f"no classes: {len(names)} folders for {len(found.names)} images are too many to be classes"
    classes = sorted_classes(names)
    position = {name: i for i, name in enumerate(classes)}
    by_folder = np.array([position.get(text(below), -1) for _, below in rest], np.int64)
    labelled = [split for split in sorted({split for split, below in rest if below}) if split]
    below = f" below {_listed(labelled)}" if labelled else ""
    return by_folder[found.folder], classes, f"{len(classes)} classes from the folders{below}"


def no_images(where: str, found: Scan) -> str:
    """The message for a folder without images: what was looked for and what there is."""
    there = []
    for kind, n in list(found.others.items())[:5]:
        there.append(f"{n} .{kind} {_plural(n, 'file')}" if kind else f"{_count(n, 'file')} without extension")
    if len(found.others) > 5:
        there.append("others")
    message = f"no images in {where}: looked for {', '.join(IMAGES)}; found {', '.join(there) or 'nothing'}"
    return message + (f"; {found.problems[0]}" if found.problems else "")


def _plural(n: int, what: str) -> str:
    return what if n == 1 else what + "s"


def _count(n: int, what: str) -> str:
    return f"{n} {_plural(n, what)}"


def _listed(parts: list[bytes]) -> str:
    words = [text(part) + "/" for part in parts]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))

"""A folder of images, however nested; classes and splits from its layout where it has one."""

import numpy as np

from ...text import count, to_text
from .labels import sorted_classes
from .scan import IMAGES, Scan
from .source import SPLITS, Source, read_file


class FolderSource(Source):
    """The images below a folder, named by their paths relative to it, sorted."""

    def __init__(self, where: str, files: Scan, *, labels: bool = True):
        self.where = where
        self.names = self._paths = files.names
        self.splits, below = _splits(files)
        notes = []
        if self.splits is not None:
            notes.append(f"splits from the folders {_listed(sorted({f.partition(b'/')[0] for f in files.folders}))}")
        if labels:
            self.labels, self.classes, note = _labels(files, below)
            notes.append(note)
        ignored = sum(files.others.values()) + len(files.tables)
        if ignored:
            notes.append(f"ignored {count(ignored, 'file')} that {'is no image' if ignored == 1 else 'are no images'}")
        if files.problems:
            notes.append(f"{count(len(files.problems), 'folder')} could not be listed: {files.problems[0]}")
        self.notes = tuple(notes)

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))


def _splits(files: Scan) -> tuple[np.ndarray | None, list[tuple[bytes, bytes]]]:
    """(splits [n] or None, for each folder its split, b"" = none, and the path below that)."""
    heads = [folder.partition(b"/") for folder in files.folders]
    splits = [SPLITS.get(to_text(head).lower()) for head, _, _ in heads]
    if None in splits:
        return None, [(b"", folder) for folder in files.folders]
    return np.array(splits, object)[files.folder], [(head, rest) for head, _, rest in heads]


def _labels(files: Scan, below: list[tuple[bytes, bytes]]) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """(labels [n] or None, classes, a note saying which or why not), from each folder's split and path `below` it."""
    nested = [(split, path) for split, path in below if path]
    flat = {split for split, path in below if not path}  # splits with images outside any class folder
    names = {to_text(path) for _, path in nested}
    deepest = max(below, key=lambda pair: pair[1].count(b"/"))
    if not names:
        return None, (), "no classes: the images lie in no folders of their own"
    if b"/" in deepest[1]:
        path = to_text(b"/".join(filter(None, deepest)))
        return None, (), f"no classes: folders are nested ({path}); a list or table with a label column can name them"
    if any(split in flat for split, _ in nested):
        return None, (), "no classes: some images lie beside the folders"
    if len(names) == 1:
        return None, (), f"no classes: all images lie in one folder, {next(iter(names))}"
    if len(names) > len(files.names) / 2:
        return None, (), f"no classes: {len(names)} folders for {len(files.names)} images are too many to be classes"
    classes = sorted_classes(names)
    position = {name: i for i, name in enumerate(classes)}
    by_folder = np.array([position.get(to_text(path), -1) for _, path in below], np.int64)
    labelled = sorted({split for split, _ in nested} - {b""})
    note = f"{len(classes)} classes from the folders" + (f" below {_listed(labelled)}" if labelled else "")
    return by_folder[files.folder], classes, note


def no_images(where: str, files: Scan) -> str:
    """The message for a folder without images: what was looked for and what there is."""
    others = [
        f"{n} .{kind} file{'s' if n > 1 else ''}" if kind else f"{count(n, 'file')} without extension"
        for kind, n in list(files.others.items())[:5]
    ] + (["others"] if len(files.others) > 5 else [])
    message = f"no images in {where}: looked for {', '.join(IMAGES)}; found {', '.join(others) or 'nothing'}"
    return message + (f"; {files.problems[0]}" if files.problems else "")


def _listed(folders: list[bytes]) -> str:
    words = [to_text(folder) + "/" for folder in folders]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))

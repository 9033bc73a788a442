"""A folder of images and masks: images/ beside masks/, annotations/ or labels/, or CamVid's train/ beside trainannot/.

A mask has its image's name with any ending. Splits are folders above or below: images/train/, train/images/.
"""

import os
from collections.abc import Iterator

import numpy as np

from ...text import to_text
from .names import StringArray
from .scan import Scan
from .source import SPLITS, Source, read_file

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "annotations", "labels")
_ANNOT = "annot"  # CamVid's ending of a split's name
_CLASSES, _ADE = "classes.txt", "objectInfo150.txt"  # names, one a line; ADE20K's table of them

_Key = tuple[tuple[str, ...], str]  # of an image and its mask: the other folders, the name without its ending


class PairSource(Source):
    """The images that lie in a folder for images, and where their masks are."""

    def __init__(self, where: str, files: Scan):
        self.where = where
        images: dict[str, _Key] = {}
        masks: dict[_Key, str] = {}
        ignored = 0
        top = {to_text(folder).partition("/")[0] for folder in files.folders}
        for path in files.names:
            is_mask, key = _key(path, top)
            if key is None:
                ignored += 1
            elif not is_mask:
                images[path] = key
            elif key not in masks or path.lower().endswith(".png"):
                masks[key] = path
        if not images or not masks:
            folders = ", ".join(sorted({to_text(folder) or "." for folder in files.folders})[:6])
            raise ValueError(
                f"{where}: no images with masks: looked for images/ beside {'/, '.join(MASKS)}/, or train/ beside "
                f"train{_ANNOT}/; pictures lie in {folders or 'no folder'}"
            )
        self.names = self._paths = StringArray.of([os.fsencode(path) for path in images])
        self._masks = [masks.get(key, "") for key in images.values()]
        self.masks = np.array([bool(mask) for mask in self._masks])
        if not self.masks.any():
            raise ValueError(
                f"{where}: no mask has the name of an image: an image is {next(iter(images))}, a mask "
                f"{next(iter(masks.values()))}"
            )
        splits = [_split(folders) for folders, _ in images.values()]
        self.splits = np.array(splits, object) if any(splits) else None
        self.mask_classes = read_mask_classes(where)
        # images/training/ beside annotations/training/: ADE20K's challenge, where 0 is void and classes count from 1
        self.zero_is_void = any(path.startswith("images/training/") for path in images) and any(
            path.startswith("annotations/training/") for path in masks.values()
        )
        unpaired = len(masks) - len({mask for mask in self._masks if mask})
        self.notes = tuple(_notes(self, int((~self.masks).sum()), unpaired, ignored))

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def read_mask(self, i: int) -> bytes:
        return read_file(self.where, os.fsencode(self._masks[i])) if self._masks[i] else b""


def _key(path: str, top: set[str]) -> tuple[bool, _Key | None]:
    """(whether it is a mask, what it shares with its image or mask); None for neither image nor mask."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0]
    for j, folder in enumerate(folders):
        if folder.lower() in (*IMAGES, *MASKS):
            return folder.lower() in MASKS, (tuple(folders[:j] + folders[j + 1 :]), stem)
    if folders and SPLITS.get((split := folders[0].removesuffix(_ANNOT)).lower()) and {split, split + _ANNOT} <= top:
        return split != folders[0], ((split, *folders[1:]), stem)
    return False, None


def _split(folders: tuple[str, ...]) -> str:
    return next((SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS), "")


def read_mask_classes(folder: str) -> tuple[str, ...]:
    """Read the names of the classes from a file beside the images; () where there is none."""
    for file in (_CLASSES, _ADE):
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig") as lines:
                names = tuple(line.strip() for line in lines if line.strip())
            if file == _ADE:
                names = tuple(line.split("\t")[-1].strip() for line in names[1:])
            if len(set(names)) < max(2, len(names)):
                raise ValueError(f"{path}: at least two names are wanted, one a line, none twice; it has {len(names)}")
            return names
    return ()


def _notes(source: Source, without: int, unpaired: int, ignored: int) -> Iterator[str]:
    assert source.masks is not None
    yield f"{int(source.masks.sum()):,} images with masks"
    if without:
        yield f"{without:,} images have no mask and are left out"
    if unpaired:
        yield f"{unpaired:,} masks have no image and are left out"
    if ignored:
        yield f"ignored {ignored:,} pictures that lie in no folder for images or masks"
    if source.zero_is_void:
        yield "ADE20K's layout: 0 is void, classes count from 1 (--settings.no-reduce-zero-label: 0 is a class)"

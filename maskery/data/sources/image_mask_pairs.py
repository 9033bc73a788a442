"""A folder of images and masks: images/ beside masks/, annotations/ or labels/, or CamVid's train/ beside trainannot/.

A mask has its image's name with any ending. Splits are folders above or below: images/train/, train/images/.
"""

import os
from collections.abc import Iterator

import numpy as np

from .names import Names, text
from .scan import Scan
from .source import SPLITS, Source, read_file

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "annotations", "labels")
_ANNOT = "annot"  # CamVid's ending of a split's name
_CLASSES, _ADE = "classes.txt", "objectInfo150.txt"  # names, one a line; ADE20K's table of them


class PairSource(Source):
    """The images that lie in a folder for images, and where their masks are."""

    labels, classes = None, ()

    def __init__(self, where: str, found: Scan):
        self.where = where
        images: dict[str, tuple[tuple[str, ...], str]] = {}
        masks: dict[tuple[tuple[str, ...], str], str] = {}
        others = 0
        folders = {text(folder).partition("/")[0] for folder in found.folders}
        for path in map(text, found.names.all_raw()):
            is_mask, key = _place(path, folders)
            if key is None:
                others += 1
            elif not is_mask:
                images[path] = key
            elif key not in masks or path.lower().endswith(".png"):
                masks[key] = path
        if not images or not masks:
            raise ValueError(no_masks(where, found))
        self.names = self._paths = Names.of([os.fsencode(path) for path in images])
        self._masks = [masks.get(key, "") for key in images.values()]
        self.masks = np.array([bool(mask) for mask in self._masks])
        if not self.masks.any():
            raise ValueError(
                f"{where}: no mask has the name of an image: an image is {next(iter(images))}, a mask "
                f"{next(iter(masks.values()))}"
            )
        splits = [_split(folders) for folders, _ in images.values()]
        self.splits = np.array(splits, object) if any(splits) else None
        self.mask_classes, self.zero_is_void = mask_classes(where), _is_ade(images, masks)
        left = len(masks) - len({mask for mask in self._masks if mask})
        self.notes = tuple(_notes(self, int((~self.masks).sum()), left, others))

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def read_mask(self, i: int) -> bytes:
        return read_file(self.where, os.fsencode(self._masks[i])) if self._masks[i] else b""


def _place(path: str, top: set[str]) -> tuple[bool, tuple[tuple[str, ...], str] | None]:
    """(whether it is a mask, (the other folders, the name without its ending)); None for neither image nor mask."""
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


def _is_ade(images: dict[str, tuple[tuple[str, ...], str]], masks: dict[tuple[tuple[str, ...], str], str]) -> bool:
    """images/training/ beside annotations/training/: ADE20K's challenge, where 0 is void and classes count from 1."""
    return any(path.startswith("images/training/") for path in images) and any(
        path.startswith("annotations/training/") for path in masks.values()
    )


def mask_classes(folder: str) -> tuple[str, ...]:
    """The names of the classes, from files beside the images; () where there are none."""
    for file, names in ((_CLASSES, _lines), (_ADE, _ade_names)):
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            found = tuple(names(path))
            if len(set(found)) < max(2, len(found)):
                raise ValueError(f"{path}: at least two names are wanted, one a line, none twice; it has {len(found)}")
            return found
    return ()


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8-sig") as file:
        yield from (line.strip() for line in file if line.strip())


def _ade_names(path: str) -> Iterator[str]:
    for line in list(_lines(path))[1:]:
        yield line.split("\t")[-1].strip()


def no_masks(where: str, found: Scan) -> str:
    folders = ", ".join(sorted({text(folder) or "." for folder in found.folders})[:6])
    return (
        f"{where}: no images with masks: looked for images/ beside {'/, '.join(MASKS)}/, or train/ beside "
        f"train{_ANNOT}/; pictures lie in {folders or 'no folder'}"
    )


def _notes(source: Source, without: int, left: int, others: int) -> Iterator[str]:
    assert source.masks is not None
    yield f"{int(source.masks.sum()):,} images with masks"
    if without:
        yield f"{without:,} images have no mask and are left out"
    if left:
        yield f"{left:,} masks have no image and are left out"
    if others:
        yield f"ignored {others:,} pictures that lie in no folder for images or masks"
    if source.zero_is_void:
        yield "ADE20K's layout: 0 is void, classes count from 1 (--settings.no-reduce-zero-label: 0 is a class)"

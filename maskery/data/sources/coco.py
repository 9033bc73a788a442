"""Images with objects, as COCO's json describes them: boxes, classes and, where there are any, shapes.

n images, K objects of one image, M classes, H x W pixels
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...config import ImagesConfig
from .json_files import find_json, list_of, read_json
from .names import StringArray
from .rle import usable_shape
from .scan import scan
from .source import Source, read_file

TRAIN = ("annotations/instances_train*.json", "annotations/train.json", "train.json", "train/_annotations.coco.json")
VAL = (
    "annotations/instances_val*.json",
    "annotations/val.json",
    "val.json",
    *(f"{split}/_annotations.coco.json" for split in ("val", "valid", "validation")),
)
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Objects:
    """What is in one image."""

    boxes: np.ndarray  # [K, 4] float32, left, top, right, bottom in pixels, inside the image
    classes: np.ndarray  # [K] int64
    crowd: np.ndarray  # [K] bool: many objects under one box, which are neither learned nor counted
    areas: np.ndarray  # [K] float64, as the file has it: small, medium and large are told apart by it
    shapes: tuple[Any, ...]  # [K] polygons or run lengths as the file has them, None = only a box


class CocoSource(Source):
    """The images that the files name, in their order: those of the training file, then those of the other one.

    What cannot be used is left out and counted in `notes`. ValueError in one line for files that make no sense.
    """

    def __init__(self, where: str, images: ImagesConfig):
        self.where = where
        train = find_json(where, TRAIN, images.train_json, "train")
        val = find_json(where, VAL, images.val_json, "val")
        if train is None:
            raise ValueError(
                f"{where}: no objects: looked for {', '.join(TRAIN)}; --images.train-json and --images.val-json name "
                "others"
            )
        trees = []
        for path, split in ((train, "train"), (val, "val")):
            if path:
                tree = read_json(path)
                trees.append((path, split, {part: list_of(path, tree, part, "COCO's") for part in _LISTS}))
        self.ids, self.object_classes = categories([(path, tree["categories"]) for path, _, tree in trees])
        index = _Index(frozenset(scan(where).names), {number: m for m, number in enumerate(self.ids)})
        for path, split, tree in trees:
            index.add(path, split, tree)
        if not index.objects:
            first = trees[0][2]["images"]
            files = f"{first[0]['file_name']} and others in {where}" if first else "nothing, it has none"
            raise ValueError(f"{train}: none of its images exists: looked for {files}")
        self.names = self._paths = StringArray.of([os.fsencode(path) for path in index.splits])
        self.splits = np.array(list(index.splits.values()), object) if val else None
        self.sizes = np.array(index.sizes, np.int32)  # [n, 2] (height, width), as the files say
        flat = [row for objects in index.objects for row in objects]
        self._first = np.cumsum([0, *map(len, index.objects)])  # [n + 1]
        self._boxes = np.array([row.box for row in flat], np.float32).reshape(-1, 4)
        self._classes = np.array([row.label for row in flat], np.int64)
        self._crowd = np.array([row.crowd for row in flat], bool)
        self._areas = np.array([row.area for row in flat], np.float64)
        # StringArray: as Python objects they would be copied into every forked worker
        self._shapes = StringArray.of([b"" if row.shape is None else json.dumps(row.shape).encode() for row in flat])
        self.counts = np.array([sum(not row.crowd for row in objects) for objects in index.objects])  # [n], no crowds
        self.notes = tuple(self._notes(index.dropped))

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def objects(self, i: int) -> Objects:
        a, b = int(self._first[i]), int(self._first[i + 1])
        shapes = tuple(json.loads(raw) if (raw := self._shapes.raw(k)) else None for k in range(a, b))
        return Objects(self._boxes[a:b], self._classes[a:b], self._crowd[a:b], self._areas[a:b], shapes)

    def without_shape(self, indices: np.ndarray) -> int:
        """Count the objects of these images, crowds aside, that have only a box."""
        bare = (np.diff(self._shapes.offsets) == 0) & ~self._crowd
        return int(sum(bare[self._first[i] : self._first[i + 1]].sum() for i in indices.tolist()))

    def _notes(self, dropped: Counter[str]) -> Iterator[str]:
        total, crowds, empty = int(self.counts.sum()), int(self._crowd.sum()), int((self.counts == 0).sum())
        yield f"{total:,} objects of {len(self.object_classes)} classes in {len(self):,} images"
        if empty:
            yield f"{empty:,} images have no object and are kept: there is nothing to find in them"
        if crowds:
            yield f"{crowds:,} crowd regions are not learned from, and what is found in them is not counted"
        for what, n in dropped.items():
            yield f"{n:,} {what}"


# ---------------------------------------------------------------------------------------------------------- the files
def categories(files: Sequence[tuple[str, Iterable[Any]]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(ids, names) of all classes, by their ids. ValueError where files or names contradict each other."""
    names: dict[int, str] = {}
    for path, listed in files:
        for category in listed:
            number = category.get("id") if isinstance(category, dict) else None
            if type(number) is not int:
                raise ValueError(f"{path}: a category without a whole number as its id: {str(category)[:80]}")
            name = str(category.get("name", number))
            if names.setdefault(number, name) != name:
                raise ValueError(f"{path}: category {number} is {name!r} here and {names[number]!r} before")
    if not names:
        raise ValueError(f"{files[0][0]}: it has no categories: there is nothing to tell apart")
    repeated = {name for name, n in Counter(names.values()).items() if n > 1}
    ids = tuple(sorted(names))
    return ids, tuple(f"{names[i]} ({i})" if names[i] in repeated else names[i] for i in ids)


# ------------------------------------------------------------------------------------------------------- their contents
class _Object(NamedTuple):
    box: tuple[float, float, float, float]
    label: int
    crowd: bool
    area: float
    shape: Any


class _Index:
    """The images and objects of the files read so far, and what was left out of them."""

    def __init__(self, files: frozenset[str], class_numbers: dict[int, int]):
        self.files, self.class_numbers = files, class_numbers
        self.splits: dict[str, str] = {}  # path of an image -> its split
        self.sizes: list[tuple[int, int]] = []
        self.objects: list[list[_Object]] = []
        self.dropped: Counter[str] = Counter()

    def add(self, path: str, split: str, tree: dict[str, list[Any]]) -> None:
        position: dict[Any, int | None] = {}  # of an image by its id, None where its file is missing
        for image in tree["images"]:
            number, name, size = _image_entry(path, image)
            if number in position:
                raise ValueError(f"{path}: two images have the id {number}")
            file = find_image(name, os.path.basename(path), split, self.files)
            position[number] = None if file is None else len(self.objects)
            if file is None:
                self.dropped["images that the json names do not exist and are left out"] += 1
                continue
            if file in self.splits:
                both = "" if self.splits[file] == split else ", in both"
                raise ValueError(f"{path}: {file} is named twice{both}")
            self.splits[file] = split
            self.sizes.append(size)
            self.objects.append([])
        for annotation in tree["annotations"]:
            number = annotation.get("image_id") if isinstance(annotation, dict) else None
            i = position.get(number)
            if i is not None:
                row = self._object(annotation, self.sizes[i])
                self.objects[i] += [row] if row else []
            elif number in position:
                self.dropped["objects of images that do not exist are left out"] += 1
            else:
                self.dropped["objects belong to no image of their file and are left out"] += 1

    def _object(self, annotation: dict[str, Any], size: tuple[int, int]) -> _Object | None:
        """An annotation as an object; None when it cannot be used, which is counted."""
        height, width = size
        label = self.class_numbers.get(annotation.get("category_id", -1))
        if label is None:
            self.dropped["objects have a category that nobody named and are left out"] += 1
            return None
        try:
            x, y, w, h = (float(v) for v in annotation["bbox"])
            area = float(annotation.get("area", w * h))
        except (KeyError, TypeError, ValueError):
            self.dropped["objects have no box of four numbers and are left out"] += 1
            return None
        if not np.isfinite((x, y, w, h, area)).all() or w <= 0 or h <= 0:
            self.dropped["boxes are empty and are left out"] += 1
            return None
        box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
        if box[2] <= box[0] or box[3] <= box[1]:
            self.dropped["boxes lie outside their image and are left out"] += 1
            return None
        if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:  # a pixel is rounding
            self.dropped["boxes reach out of their image and are cut at its edge"] += 1
        shape = annotation.get("segmentation") or None
        if shape and (shape := usable_shape(shape, size)) is None:
            self.dropped[
                "shapes cannot be drawn (too few points, or of another size than the image): only their box is"
            ] += 1
        return _Object(box, label, bool(annotation.get("iscrowd", 0)), area, shape)


def _image_entry(path: str, image: Any) -> tuple[Any, str, tuple[int, int]]:
    """(id, file name, (height, width)). ValueError where one of them is missing."""
    try:
        number, name, size = image["id"], image["file_name"], (int(image["height"]), int(image["width"]))
        hash(number)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: an image without id, file_name, height or width: {str(image)[:80]}") from None
    if min(size) < 1:
        raise ValueError(f"{path}: {name} has {size[1]} x {size[0]} pixels")
    return number, str(name).replace("\\", "/"), size


def find_image(name: str, json_name: str, split: str, files: frozenset[str]) -> str | None:
    """Where an image is, relative to the data: as it is named, or in one of the usual folders."""
    stem = json_name.removesuffix(".json").removeprefix("instances_")
    folders = ["", stem, split, "images", f"images/{stem}", f"images/{split}"]
    if split == "val" and json_name.startswith("_"):
        folders += ["valid", "validation"]
    return next((path for folder in folders if (path := f"{folder}/{name}".lstrip("/")) in files), None)

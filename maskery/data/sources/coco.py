"""Images with objects, as COCO's json describes them: boxes, classes and, where there are any, shapes.

n images, K objects of one image, M classes, H x W pixels
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .names import Names, text
from .rle import drawable
from .scan import scan
from .source import Source, read_file

TRAIN = ("annotations/instances_train*.json", "annotations/train.json", "train.json", "train/_annotations.coco.json")
VAL = (
    "annotations/instances_val*.json",
    "annotations/val.json",
    "val.json",
    *(f"{split}/_annotations.coco.json" for split in ("val", "valid", "validation")),
)
_PARTS = (("images", list), ("annotations", list), ("categories", list))


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

    labels, classes = None, ()

    def __init__(self, where: str, train: str | None = None, val: str | None = None):
        self.where = where
        first, second = json_file(where, TRAIN, train, "train"), json_file(where, VAL, val, "val")
        if first is None:
            raise ValueError(no_json(where))
        files = [(first, "train")] + ([(second, "val")] if second else [])
        read = [(path, split, read_json(path)) for path, split in files]
        self.ids, self.object_classes = categories([(path, tree["categories"]) for path, _, tree in read])
        place = {number: m for m, number in enumerate(self.ids)}
        there = set(map(text, scan(where, cache=True).names.all_raw()))
        left: Counter[str] = Counter()
        paths: dict[str, str] = {}  # of an image -> its split
        sizes: list[tuple[int, int]] = []
        rows: list[list[tuple[Any, ...]]] = []  # of every image: box, class, crowd, area, shape
        for path, split, tree in read:
            of_image: dict[Any, int] = {}
            gone = set()
            for image in tree["images"]:
                number, name, size = image_facts(path, image)
                if number in of_image or number in gone:
                    raise ValueError(f"{path}: two images have the id {number}")
                file = found(name, os.path.basename(path), split, there)
                if file is None:
                    left["images that the json names do not exist and are left out"] += 1
                    gone.add(number)
                    continue
                if file in paths:
                    raise ValueError(f"{path}: {file} is named twice" + ("" if paths[file] == split else ", in both"))
                of_image[number] = len(rows)
                paths[file] = split
                sizes.append(size)
                rows.append([])
            for annotation in tree["annotations"]:
                number = annotation.get("image_id") if isinstance(annotation, dict) else None
                if number not in of_image:
                    left[
                        "objects of images that do not exist are left out"
                        if number in gone
                        else "objects belong to no image of their file and are left out"
                    ] += 1
                    continue
                i = of_image[number]
                row = usable(annotation, sizes[i], place, left)
                if row:
                    rows[i].append(row)
        if not rows:
            raise ValueError(f"{first}: none of its images exists: looked for {looked_for(read[0][2], where)}")
        self.names = self._paths = Names.of([os.fsencode(path) for path in paths])
        self.splits = np.array(list(paths.values()), object) if second else None
        self.sizes = np.array(sizes, np.int32)  # [n, 2] (height, width), as the files say
        flat = [row for of_image in rows for row in of_image]
        self._first = np.cumsum([0, *map(len, rows)])  # [n + 1]
        self._boxes = np.array([row[0] for row in flat], np.float32).reshape(-1, 4)
        self._classes = np.array([row[1] for row in flat], np.int64)
        self._crowd = np.array([row[2] for row in flat], bool)
        self._areas = np.array([row[3] for row in flat], np.float64)
        self._shapes = Names.of([b"" if row[4] is None else json.dumps(row[4]).encode() for row in flat])  # for forks
        self.counts = np.array([sum(not row[2] for row in of_image) for of_image in rows])  # [n] objects, no crowds
        self.notes = tuple(self._notes(left))

    def read(self, i: int) -> bytes:
        return read_file(self.where, self._paths.raw(i))

    def objects(self, i: int) -> Objects:
        a, b = int(self._first[i]), int(self._first[i + 1])
        shapes = tuple(json.loads(raw) if (raw := self._shapes.raw(k)) else None for k in range(a, b))
        return Objects(self._boxes[a:b], self._classes[a:b], self._crowd[a:b], self._areas[a:b], shapes)

    def without_shape(self, indices: np.ndarray) -> int:
        """Objects of these images, crowds aside, of which there is only a box."""
        bare = (np.diff(self._shapes.offsets) == 0) & ~self._crowd
        return int(sum(bare[self._first[i] : self._first[i + 1]].sum() for i in indices.tolist()))

    def _notes(self, left: Counter[str]) -> Iterator[str]:
        total, crowds, empty = int(self.counts.sum()), int(self._crowd.sum()), int((self.counts == 0).sum())
        yield f"{total:,} objects of {len(self.object_classes)} classes in {len(self):,} images"
        if empty:
            yield f"{empty:,} images have no object and are kept: there is nothing to find in them"
        if crowds:
            yield f"{crowds:,} crowd regions are not learned from, and what is found in them is not counted"
        for what, n in left.items():
            yield f"{n:,} {what}"


# ----------------------------------------------------------------------------------------------------------- the file
def json_file(where: str, patterns: Sequence[str], given: str | None, split: str) -> str | None:
    """The file that is asked for, or the one that has a usual name. ValueError: it is missing, or there are several."""
    if given is not None:
        path = os.path.join(where, given)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: no such file (--images.{split}-json)")
        return path
    for pattern in patterns:
        files = sorted(glob.glob(os.path.join(glob.escape(where), pattern)))
        if len(files) > 1:
            named = ", ".join(os.path.relpath(file, where) for file in files)
            raise ValueError(f"{where}: {named}: which one? --images.{split}-json names it")
        if files:
            return files[0]
    return None


def no_json(where: str) -> str:
    return f"{where}: no objects: looked for {', '.join(TRAIN)}; --images.train-json and --images.val-json name others"


def read_tree(path: str) -> Any:
    """What a file of json holds. ValueError in one line where it is damaged."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except json.JSONDecodeError as e:
        raise ValueError(f"{path}: damaged json in line {e.lineno}: {e.msg}") from None
    except (UnicodeDecodeError, RecursionError) as e:
        raise ValueError(f"{path}: damaged json: {e}") from None


def read_json(path: str) -> dict[str, list[Any]]:
    """ValueError in one line for what is no file of instances."""
    tree = read_tree(path)
    for part, kind in _PARTS:
        if not isinstance(tree, dict) or not isinstance(tree.get(part), kind):
            raise ValueError(f"{path}: it has no list {part!r}: COCO's instances have images, annotations, categories")
    return tree


def categories(files: Sequence[tuple[str, Iterable[Any]]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(ids, names) of all classes, by their ids. ValueError where files or names contradict each other."""
    known: dict[int, str] = {}
    for path, each in files:
        for category in each:
            number = category.get("id") if isinstance(category, dict) else None
            if type(number) is not int:
                raise ValueError(f"{path}: a category without a whole number as its id: {str(category)[:80]}")
            name = str(category.get("name", number))
            if known.setdefault(number, name) != name:
                raise ValueError(f"{path}: category {number} is {name!r} here and {known[number]!r} before")
    if not known:
        raise ValueError(f"{files[0][0]}: it has no categories: there is nothing to tell apart")
    twice = {name for name, n in Counter(known.values()).items() if n > 1}
    ids = tuple(sorted(known))
    return ids, tuple(f"{known[i]} ({i})" if known[i] in twice else known[i] for i in ids)


def image_facts(path: str, image: Any) -> tuple[Any, str, tuple[int, int]]:
    """(id, file name, (height, width)). ValueError where one of them is missing."""
    try:
        number, name, size = image["id"], image["file_name"], (int(image["height"]), int(image["width"]))
        hash(number)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: an image without id, file_name, height or width: {str(image)[:80]}") from None
    if min(size) < 1:
        raise ValueError(f"{path}: {name} has {size[1]} x {size[0]} pixels")
    return number, str(name).replace("\\", "/"), size


def found(name: str, file: str, split: str, there: set[str]) -> str | None:
    """Where an image is, relative to the data: as it is named, or in one of the usual folders."""
    stem = file.removesuffix(".json").removeprefix("instances_")
    folders = dict.fromkeys(["", stem, split, "images", f"images/{stem}", f"images/{split}", *_beside(file, split)])
    return next((path for folder in folders if (path := f"{folder}/{name}".lstrip("/")) in there), None)


def _beside(file: str, split: str) -> tuple[str, ...]:
    return ("valid", "validation") if split == "val" and file.startswith("_") else ()


def looked_for(tree: dict[str, list[Any]], where: str) -> str:
    return f"{tree['images'][0]['file_name']} and others in {where}" if tree["images"] else "nothing, it has none"


def usable(
    annotation: dict[str, Any], size: tuple[int, int], place: dict[int, int], left: Counter[str]
) -> tuple[Any, ...] | None:
    """(box, class, crowd, area, shape) of an annotation; None when it cannot be used, which is counted in `left`."""
    height, width = size
    m = place.get(annotation.get("category_id", -1))
    if m is None:
        left["objects have a category that nobody named and are left out"] += 1
        return None
    try:
        x, y, w, h = (float(v) for v in annotation["bbox"])
        area = float(annotation.get("area", w * h))
    except (KeyError, TypeError, ValueError):
        left["objects have no box of four numbers and are left out"] += 1
        return None
    if not np.isfinite((x, y, w, h, area)).all() or w <= 0 or h <= 0:
        left["boxes are empty and are left out"] += 1
        return None
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    if box[2] <= box[0] or box[3] <= box[1]:
        left["boxes lie outside their image and are left out"] += 1
        return None
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:  # a pixel is rounding
        left["boxes reach out of their image and are cut at its edge"] += 1
    shape = annotation.get("segmentation")
    if shape:
        shape = drawable(shape, size)
        if shape is None:
            left["shapes cannot be drawn (too few points, or of another size than the image): only their box is"] += 1
    return box, m, bool(annotation.get("iscrowd", 0)), area, shape or None

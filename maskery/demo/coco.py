"""Built-in scenes as a COCO data set, for the tests and the pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .scenes import SHAPES, Scene, new_folder, save, scene, splits_of


def write_coco(root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2, shapes: bool = True) -> Path:
    """Write scenes 0..n-1 as a COCO data set: `root/train/scene-000012.png`, `root/annotations/instances_train.json`.

    Boxes and masks of every visible object; with `shapes` False all are of the class "object". The last `holdout` of
    the scenes goes to `val`. ValueError: a bad number, or `root` is not empty.
    """
    categories = [{"id": m + 1, "name": name} for m, name in enumerate(SHAPES if shapes else ("object",))]
    with new_folder(root) as folder:
        (folder / "annotations").mkdir()
        for split, indices in splits_of(n, holdout).items():
            images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
            for i in indices:
                example, name = scene(seed, i, size), f"scene-{i:06d}.png"
                save(example.image, folder / split / name)
                images.append({"id": i, "file_name": name, "height": size, "width": size})
                for k in range(len(example.kinds)):
                    category = 1 + (int(example.kinds[k]) if shapes else 0)
                    facts = {"id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0}
                    annotations.append(facts | _object(example, k))
            tree = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    return Path(root)


def _object(example: Scene, k: int) -> dict[str, Any]:
    """Box, area and run lengths of one object."""
    left, top, right, bottom = example.boxes[k].tolist()
    mask = example.instances == k + 1
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0)), prepend=0).tolist()
    runs.append(mask.size - sum(runs))  # down the columns: first those that are not in it
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "segmentation": {"size": list(mask.shape), "counts": runs},
    }

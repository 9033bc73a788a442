"""Built-in scenes as a COCO data set, for the tests and the pages."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import SHAPES, scene


def write_coco(root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2, shapes: bool = True) -> Path:
    """Write scenes 0..n-1 as a COCO data set: `root/train/scene-000012.png`, `root/annotations/instances_train.json`.

    Boxes and masks of every object in sight; with `shapes` False all are of the class "object". The last `holdout` of
    the scenes goes to `val`. ValueError: a bad number, or `root` is not empty.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} exists and is not an empty folder")
    names = SHAPES if shapes else ("object",)
    for split, indices in (("train", range(n - round(holdout * n))), ("val", range(n - round(holdout * n), n))):
        (root / split).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for i in indices:
            one, name = scene(seed, i, size), f"scene-{i:06d}.png"
            Image.fromarray(one.image).save(root / split / name)
            images.append({"id": i, "file_name": name, "height": size, "width": size})
            for k, (kind, box) in enumerate(zip(one.kinds.tolist(), one.boxes.tolist(), strict=True)):
                mask = one.instances == k + 1
                runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0)), prepend=0).tolist()
                runs.append(size * size - sum(runs))  # down the columns: first those that are not in it
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": 1 + (kind if shapes else 0),
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [size, size], "counts": runs},
                    }
                )
        categories = [{"id": m + 1, "name": name} for m, name in enumerate(names)]
        tree = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tree))
    return root

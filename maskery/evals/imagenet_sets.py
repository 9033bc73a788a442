"""Published test sets of ImageNet as folders: which of a classifier's classes they have, and where their images are.

Folders of images are named by WordNet ids (n01440764), and so are the classes: nothing else is needed to find the 200
classes of ImageNet-A and -R among the 1000. The lists of ids, which only serve to recognise a set, come with timm.

M classes of the classifier, S classes of the set
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .corruptions import BENCHMARK, EXTRA, SEVERITIES

LISTS = {
    "ImageNet-A": "imagenet_a_synsets.txt",  # Hendrycks et al. 2021, Natural adversarial examples
    "ImageNet-R": "imagenet_r_synsets.txt",  # Hendrycks et al. 2021, The many faces of robustness
    "ImageNet": "imagenet_synsets.txt",  # all 1000, in the order of every ImageNet-1k classifier; ImageNet-Sketch's too
}


@dataclass(frozen=True)
class SharedClasses:
    """The classes that a folder of images and a classifier share."""

    columns: np.ndarray  # [S] of the classifier's logits, in the order of the folder's classes
    position: np.ndarray  # [classes of the folder] place among `columns`, -1 = the classifier does not know it
    note: str  # what was recognised, and what is left out

    def logits(self, logits: Tensor) -> Tensor:
        """[n, M] -> [n, S]: the classifier may only choose among the set's classes."""
        return logits[:, torch.from_numpy(self.columns).to(logits.device)]


@cache
def ids_of(name: str) -> tuple[str, ...]:
    """The WordNet ids of a set in `LISTS`."""
    timm = find_spec("timm")  # where it lies; importing it takes seconds
    assert timm is not None
    assert timm.origin is not None
    return tuple((Path(timm.origin).parent / "data" / "_info" / LISTS[name]).read_text().split())


def wordnet_ids(classes: Sequence[str]) -> tuple[str, ...]:
    """WordNet ids of a classifier's classes: its own names, or ImageNet-1k's when it has 1000 that are just numbers.

    ValueError when the classes are neither, so that images of ImageNet cannot be compared with them.
    """
    if all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return tuple(classes)
    if list(classes) == [str(i) for i in range(1000)]:
        return ids_of("ImageNet")
    example = next(name for name in classes if not re.fullmatch(r"n\d{8}", name))
    raise ValueError(
        f"the classifier's classes are not named by WordNet ids (n01440764, ...), one is {example!r}: ImageNet's test "
        "sets cannot be matched with them"
    )


def shared_classes(folders: Sequence[str], classes: Sequence[str], where: str | Path) -> SharedClasses:
    """Match the class folders at `where` with the classes of a classifier. ValueError when they share none."""
    known = {name: i for i, name in enumerate(wordnet_ids(classes))}
    shared = [name for name in folders if name in known]
    if not shared:
        raise ValueError(f"{where}: none of its {len(folders)} classes is one of the classifier's {len(classes)}")
    place = {name: i for i, name in enumerate(shared)}
    named = recognised(folders)
    note = f"{named or 'a set of its own'}: {len(shared)} of its {len(folders)} classes"
    note += f" among the classifier's {len(classes)}; the classifier chooses among these {len(shared)}"
    if len(shared) < len(folders):
        note += "; images of other classes are left out, so the number cannot be compared with published ones"
    columns, position = [known[name] for name in shared], [place.get(name, -1) for name in folders]
    return SharedClasses(np.array(columns), np.array(position), note)


def recognised(folders: Sequence[str]) -> str | None:
    """ "ImageNet-A", "ImageNet-R" or "ImageNet" when these are exactly its classes."""
    return next((name for name in LISTS if set(ids_of(name)) == set(folders)), None)


def imagenet_c_folders(root: Path) -> dict[tuple[str, int], Path]:
    """{(corruption, severity): folder of class folders} below `root`, as ImageNet-C is unpacked.

    A corruption lies in `root` or one folder deeper (root/blur/defocus_blur/3). ValueError when there is none.
    """
    folders: dict[tuple[str, int], Path] = {}
    for name in (*BENCHMARK, *EXTRA):
        for at in (root / name, *sorted(root.glob(f"*/{name}"))):
            for severity in SEVERITIES:
                if (at / str(severity)).is_dir():
                    folders.setdefault((name, severity), at / str(severity))
    if not folders:
        raise ValueError(
            f"{root}: not ImageNet-C: there is no folder like {BENCHMARK[0]}/1 in it (a corruption, then a severity)"
        )
    return folders

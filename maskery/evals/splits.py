"""Which images are tested, and whether they can be compared with those of training: classes, no image on both sides."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..data.sources.labels import annotated
from ..data.sources.names import digests
from ..data.sources.source import Source


def reported(source: Source, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images whose numbers every evaluation reports, images to choose by), of what pretraining `held_out`.

    A "test" split is what is reported where there is a "val" split beside it: that one is for choosing, and looks have
    seen it. Unless no "test" image has an answer: then, as without one, all that was held out is reported.
    """
    if source.splits is None or not (source.splits == "val").any():
        return held_out, held_out[:0]
    test = np.flatnonzero(source.splits == "test")
    return (test, held_out) if _answered(source)[test].any() else (held_out, held_out[:0])


def _answered(source: Source) -> np.ndarray:
    """bool [n]: somebody said what is right; True where that is not known of single images."""
    if source.masks is not None:
        return source.masks
    if source.multi_hot is not None:
        return annotated(source.multi_hot)
    return np.ones(len(source), bool) if source.labels is None else source.labels >= 0


@dataclass(frozen=True)
class Overlap:
    """Images of the test side whose bytes are also on the training side."""

    pairs: tuple[tuple[str, str], ...]  # (test image, a training image that is the same), by position in the test side
    tested: int  # images of the test side that could be read

    def sentence(self) -> str | None:
        """A warning, or None when there is nothing to warn of."""
        if not self.pairs:
            return None
        test, train = self.pairs[0]
        share = len(self.pairs) / self.tested
        return (
            f"{len(self.pairs):,} of {self.tested:,} test images ({share:.1%}) are training images too, byte for byte "
            f"({test} is {train}): accuracy on them is memory, not understanding"
        )


def overlap(
    train: Source,
    train_indices: np.ndarray,
    test: Source,
    test_indices: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> Overlap:
    """Compare the bytes of all training images with those of the test images (the two sources may be one).

    By digests of 8 bytes, which a million and fifty thousand different images share with odds of 3 in 10^9. In memory
    are those of the test images, and a few images. Images that cannot be read are left out. The same picture encoded
    twice is not found.
    """
    total, done = len(train_indices) + len(test_indices), 0

    def digests_of(source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal done
        kept, found = [], []
        for start in range(0, len(indices), 256):
            part = indices[start : start + 256]
            source.expect(part)
            data = [(i, d) for i, d in zip(part.tolist(), pool.map(lambda i: _digest(source, i), part), strict=True)]
            kept += [i for i, d in data if d is not None]
            found += [d for _, d in data if d is not None]
            done += len(part)
            if progress:
                progress(done, total)
        return np.array(kept, np.int64), np.array(found, np.uint64)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tested, wanted = digests_of(test, test_indices)
        by_digest: dict[int, list[int]] = {}
        for i, digest in zip(tested.tolist(), wanted.tolist(), strict=True):
            by_digest.setdefault(digest, []).append(i)
        pairs: dict[int, int] = {}
        for start in range(0, len(train_indices), 8192):
            part, found = digests_of(train, train_indices[start : start + 8192])
            for k in np.flatnonzero(np.isin(found, wanted)):
                other = int(part[k])
                for i in by_digest[int(found[k])]:
                    if not (test is train and i == other):  # an image is not its own double
                        pairs.setdefault(i, other)
    return Overlap(tuple((test.names[i], train.names[k]) for i, k in sorted(pairs.items())), len(tested))


def match_classes(train: Sequence[str], test: Sequence[str]) -> np.ndarray:
    """[classes of the test side] -> their positions among the training classes.

    ValueError naming the test classes that nothing was trained on; fewer classes in the test are fine.
    """
    known = {name: i for i, name in enumerate(train)}
    strange = [name for name in test if name not in known]
    if strange:
        named, more = ", ".join(strange[:5]), f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise ValueError(
            f"test and training classes differ: {len(strange)} of {len(test)} test classes were not trained on "
            f"({named}{more}); the training has {', '.join(train[:5])}{', ...' if len(train) > 5 else ''}"
        )
    return np.array([known[name] for name in test], np.int64)


def refuse_unseen(labels: np.ndarray, train: np.ndarray, test: np.ndarray, classes: Sequence[str], where: str) -> None:
    """ValueError naming classes that have test images and no training images."""
    strange = np.setdiff1d(labels[test], labels[train])
    if len(strange):
        named = ", ".join(classes[int(c)] for c in strange[:5]) + (", ..." if len(strange) > 5 else "")
        raise ValueError(
            f"{where}: training and held-out classes differ: {len(strange)} held-out classes have no training image "
            f"({named})"
        )


def labelled(
    labels: np.ndarray | None, indices: np.ndarray, classes: Sequence[str], what: str, several: bool = True
) -> np.ndarray:
    """Those of `indices` that have a label. ValueError when there are none, or (`several`) all are of one class.

    `what` begins the message: "data: training images".
    """
    if labels is None:
        raise ValueError(f"{what} have no labels: it needs class folders, or a label column")
    kept = indices[labels[indices] >= 0]
    found = np.unique(labels[kept])
    if not len(kept):
        raise ValueError(f"{what}: none of {len(indices)} has a label")
    if several and len(found) == 1:
        raise ValueError(f"{what} are all of one class ({classes[int(found[0])]}): there is nothing to tell apart")
    return kept


def _digest(source: Source, i: int) -> int | None:
    try:
        data = source.read(int(i))
    except OSError:
        return None
    return int(digests([data], 8).view(np.uint64)[0, 0]) if data else None

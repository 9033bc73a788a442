"""Which images are tested, and whether they fit the training images: classes, and no image in both."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..data.dataset import ImageData
from ..data.sources.labels import annotated
from ..data.sources.names import digests
from ..data.sources.source import Source
from ..terminal import Tick, no_progress


def test_and_validation(source: Source, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide what pretraining held out into images whose numbers are reported, and images to choose by.

    Where there is a "val" split beside a "test" split, "val" is for choosing, and periodic evaluations have seen it.
    Where there is none, or no "test" image has an annotation, all held-out images are reported.
    """
    if source.splits is None or not (source.splits == "val").any():
        return held_out, held_out[:0]
    test = np.flatnonzero(source.splits == "test")
    return (test, held_out) if _annotated(source)[test].any() else (held_out, held_out[:0])


def _annotated(source: Source) -> np.ndarray:
    """bool [n]: the image has an annotation; True where single images are not known to have one."""
    if source.masks is not None:
        return source.masks
    if source.multi_hot is not None:
        return annotated(source.multi_hot)
    return np.ones(len(source), bool) if source.labels is None else source.labels >= 0


def overlap_notes(source: Source, train: np.ndarray, test: np.ndarray, tick: Tick = no_progress) -> list[str]:
    """Warn of test images whose bytes are also those of a training image; nothing when there are none.

    By digests of 8 bytes, which a million and fifty thousand different images share with odds of 3 in 10^9. In memory
    are those of the test images, and a few images. Images that cannot be read are left out. The same picture encoded
    twice is not found.
    """
    by_digest: dict[int, list[int]] = {}
    pairs: dict[int, int] = {}  # test image -> a training image that is the same
    for done, (i, digest) in enumerate(_digests(source, np.concatenate([test, train])), 1):
        if digest is not None and done <= len(test):
            by_digest.setdefault(digest, []).append(i)
        elif digest is not None:
            for same in by_digest.get(digest, ()):
                if same != i:  # an image is not its own duplicate
                    pairs.setdefault(same, i)
        tick(done, len(test) + len(train))
    if not pairs:
        return []
    (first, same), tested = min(pairs.items()), sum(map(len, by_digest.values()))
    return [
        f"{len(pairs):,} of {tested:,} test images ({len(pairs) / tested:.1%}) are training images too, byte for byte "
        f"({source.names[first]} is {source.names[same]}): accuracy on them is memory, not understanding"
    ]


def _digests(source: Source, indices: np.ndarray) -> Iterator[tuple[int, int | None]]:
    """Yield (image, digest of its bytes or None when it cannot be read)."""

    def digest(i: int) -> int | None:
        try:
            data = source.read(int(i))
        except OSError:
            return None
        return int(digests([data], 8).view(np.uint64)[0, 0]) if data else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), 256):
            part = indices[start : start + 256]
            source.expect(part)
            yield from zip(part.tolist(), pool.map(digest, part), strict=True)


def reported_split(data: ImageData) -> ImageData:
    """Hold out what every evaluation reports; with a "val" beside a "test" split the former is for validation."""
    source = data.images.source
    if not len(data.held_out):
        raise ValueError(f"{source.where}: nothing is held out, so nothing could be measured; set --images.holdout")
    held_out, validation = test_and_validation(source, data.held_out)
    return replace(data, held_out=held_out, validation=validation)


def labelled_images(data: ImageData, subset: bool = False) -> ImageData:
    """Keep the images with labels, and divide the held-out ones into those that are reported and validation images.

    ValueError when there are none, when training and held-out images do not fit together, and for a `subset` of the
    labels where an image may have several.
    """
    data = reported_split(data)
    where, labels, train = data.images.source.where, data.labels, data.train
    held_out, validation = data.held_out, data.validation
    if data.multi_hot is None:
        train = labelled(labels, train, data.classes, f"{where}: training images")
        held_out = labelled(labels, held_out, data.classes, f"{where}: held-out images", one_class=True)
        assert labels is not None
        check_classes_trained(labels, train, held_out, data.classes, where)
        return replace(data, train=train, held_out=held_out, validation=validation[labels[validation] >= 0])
    if subset:
        raise ValueError(f"{where}: --labels and --shots are for one label an image, these have several")
    with_labels = annotated(data.multi_hot)
    train, held_out, validation = (part[with_labels[part]] for part in (train, held_out, validation))
    if not len(train) or not len(held_out):
        raise ValueError(f"{where}: {len(train)} training and {len(held_out)} held-out images have labels")
    return replace(data, train=train, held_out=held_out, validation=validation)


def match_classes(train: Sequence[str], test: Sequence[str]) -> np.ndarray:
    """Positions of the test classes among the training classes. ValueError naming classes nothing was trained on."""
    known = {name: i for i, name in enumerate(train)}
    unknown = [name for name in test if name not in known]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"test and training classes differ: {len(unknown)} of {len(test)} test classes were not trained on "
            f"({', '.join(unknown[:5])}{more}); the training has {', '.join(train[:5])}{', ...' * (len(train) > 5)}"
        )
    return np.array([known[name] for name in test], np.int64)


def check_classes_trained(
    labels: np.ndarray, train: np.ndarray, test: np.ndarray, classes: Sequence[str], where: str
) -> None:
    """ValueError naming classes that have test images and no training images."""
    untrained = np.setdiff1d(labels[test], labels[train])
    if len(untrained):
        named = ", ".join(classes[int(c)] for c in untrained[:5]) + ", ..." * (len(untrained) > 5)
        raise ValueError(
            f"{where}: training and held-out classes differ: {len(untrained)} held-out classes have no training image "
            f"({named})"
        )


def labelled(
    labels: np.ndarray | None, indices: np.ndarray, classes: Sequence[str], what: str, one_class: bool = False
) -> np.ndarray:
    """Those of `indices` that have a label. ValueError when there are none, or all are of one class.

    `one_class` allows a single class; `what` begins the message: "data: training images".
    """
    if labels is None:
        raise ValueError(f"{what} have no labels: it needs class folders, or a label column")
    with_label = indices[labels[indices] >= 0]
    if not len(with_label):
        raise ValueError(f"{what}: none of {len(indices)} has a label")
    if not one_class and len(np.unique(labels[with_label])) == 1:
        only = classes[int(labels[with_label[0]])]
        raise ValueError(f"{what} are all of one class ({only}): there is nothing to tell apart")
    return with_label

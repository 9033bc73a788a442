"""Open images with the reader for the kind of data found at a path or URL."""

import os
from pathlib import Path

from ...config import DEFAULT_IMAGES, ImagesConfig
from ...terminal import Quiet, Reporter
from ..pack.reader import PackedSource
from .coco import CocoSource
from .file_list import ListSource
from .folder import FolderSource, no_images
from .image_mask_pairs import PairSource
from .names import absolute
from .scan import scan
from .source import LISTS, TABLES, Source
from .table import TableSource
from .vqa_v2 import VqaSource

QUIET = Quiet()


def open_source(where: str | Path, images: ImagesConfig = DEFAULT_IMAGES, report: Reporter = QUIET) -> Source:
    """Open a folder, a list (.txt, .lst, .csv, .tsv), a table (.parquet, .arrow, .feather), a folder of tables, or a
    pack (`maskery pack`), which may lie at a URL (s3://, gs://, https://, ...).

    A folder that has not changed since the last time is not scanned again. Raises ValueError when there is nothing to
    read, naming what was looked for.
    """
    path = absolute(where)
    if images.objects:
        return CocoSource(path, images)
    if images.questions:
        return VqaSource(path, images)
    if "://" in path or os.path.exists(os.path.join(path, "pack.json")):
        return _pack(path, images)
    if os.path.exists(os.path.join(path, "packing.json")):
        raise ValueError(f"{path}: a pack that is not finished; the `maskery pack` that began it goes on with it")
    if os.path.isdir(path):
        return _folder(path, images, report)
    if not os.path.exists(path):
        raise ValueError(f"{path}: no such file or folder")
    extension = os.path.splitext(path)[1].lower()
    if extension in LISTS:
        return ListSource(path, images)
    if extension in TABLES:
        return TableSource(path, (path,), images)
    raise ValueError(f"{path}: not a folder, and no file of a kind that is read ({', '.join(LISTS + TABLES)})")


def _pack(path: str, images: ImagesConfig) -> Source:
    _check_no_columns(f"{path} is a packed data set", images)
    if images.masks:
        raise ValueError(f"{path} is a packed data set, which has no masks: the data it was made of has")
    return PackedSource(path, labels=images.labels, remote_cache=images.cache if "://" in path else None)


def _folder(path: str, images: ImagesConfig, report: Reporter) -> Source:
    with report.bar("looking for images") as tick:
        files = scan(path, progress=tick)
    if len(files.names):
        _check_no_columns(f"{path} is a folder of images", images)
        return PairSource(path, files) if images.masks else FolderSource(path, files, labels=images.labels)
    if not files.tables:
        raise ValueError(no_images(path, files))
    return TableSource(path, tuple(os.path.join(path, os.fsdecode(table)) for table in files.tables), images)


def _check_no_columns(what: str, images: ImagesConfig) -> None:
    """ValueError when a column is asked for of data that have none."""
    for column in (images.image_column, images.label_column, images.split_column, images.mask_column):
        if column is not None:
            raise ValueError(f"{what}: it has no column {column!r}")

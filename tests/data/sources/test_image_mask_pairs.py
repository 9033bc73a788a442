"""Where masks are found: layouts of folders, columns of tables."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskery.config import ImagesConfig
from maskery.data.sources.open import open_source
from maskery.data.sources.source import Source
from tests.data.sources.listed import listed


def files(root: Path, *names: str) -> Path:
    """Pictures of 4 x 4 whose every pixel is their position in `names`."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(root / name)
    return root


def opened(where: Path, **how: str) -> Source:
    return open_source(where, ImagesConfig(masks=True, **how))


def pairs(source: Source) -> dict[str, str]:
    """Image -> the file of its mask, by what it holds."""
    return {source.names[i]: source.read_mask(i).decode("latin1") for i in range(len(source))}


@pytest.mark.parametrize(
    ("layout", "splits"),
    [
        ({"images/a.jpg": "masks/a.png", "images/b.png": "masks/b.png"}, None),
        ({"images/a.jpg": "labels/a.png", "images/x/a.jpg": "labels/x/a.png"}, None),
        ({"images/train/a.png": "masks/train/a.png", "images/val/a.png": "masks/val/a.png"}, ["train", "val"]),
        ({"train/images/a.png": "train/masks/a.png", "test/images/a.png": "test/masks/a.png"}, ["test", "train"]),
        (
            {
                "images/training/a.jpg": "annotations/training/a.png",
                "images/validation/b.jpg": "annotations/validation/b.png",
            },
            ["train", "val"],
        ),
        ({"train/a.png": "trainannot/a.png", "val/b.png": "valannot/b.png", "test/a.png": "testannot/a.png"}, None),
    ],
    ids=["flat", "nested", "splits below", "splits above", "ade20k", "camvid"],
)
def test_layouts(tmp_path: Path, layout: dict[str, str], splits: list[str] | None) -> None:
    files(tmp_path, *layout, *layout.values())
    source = opened(tmp_path)
    expected = {image: (tmp_path / mask).read_bytes().decode("latin1") for image, mask in layout.items()}
    assert pairs(source) == expected
    assert all(listed(source.masks) or ())
    if "train/a.png" in layout:
        splits = ["test", "train", "val"]
    assert listed(source.splits) == splits
    assert source.zero_is_void == ("images/training/a.jpg" in layout)
    assert source.labels is None


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    names = ("images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/a.png", "masks/x.png", "masks/y.png", "z.png")
    source = opened(files(tmp_path, *names))
    assert list(source.names) == ["images/a.jpg", "images/b.jpg", "images/c.jpg"]
    assert listed(source.masks) == [True, False, False]
    assert source.read_mask(1) == b""
    assert source.notes == (
        "1 images with masks",
        "2 images have no mask and are left out",
        "2 masks have no image and are left out",
        "ignored 1 pictures that lie in no folder for images or masks",
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("images/a.png",), "no images with masks: looked for images/ beside masks/.*pictures lie in images"),
        (("train/cat/a.png", "train/dog/b.png"), "no images with masks.*pictures lie in train/cat, train/dog"),
        (("images/a.png", "masks/b.png"), "no mask has the name of an image: an image is images/a.png, a mask masks/b"),
    ],
)
def test_no_masks_at_all(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        opened(files(tmp_path, *names))


def test_names_of_classes(tmp_path: Path) -> None:
    files(tmp_path, "images/a.png", "masks/a.png")
    assert opened(tmp_path).mask_classes == ()
    header, rows = "Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.1\t1\t1\t1\twall\n2\t0.1\t1\t1\t0\tsky"
    (tmp_path / "objectInfo150.txt").write_text(f"{header}\n{rows}\n")
    assert opened(tmp_path).mask_classes == ("wall", "sky")
    (tmp_path / "classes.txt").write_text("road\n\n sky \n")
    assert opened(tmp_path).mask_classes == ("road", "sky")
    (tmp_path / "classes.txt").write_text("road\nroad\n")
    with pytest.raises(ValueError, match="at least two names are wanted, one a line, none twice"):
        opened(tmp_path)


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("kind", ["bytes", "struct", "paths"])
def test_a_table_with_a_column_of_masks(tmp_path: Path, kind: str) -> None:
    masks: list = [png(7), None, png(9)]
    if kind == "struct":
        masks = [{"bytes": masks[0], "path": "m"}, {"bytes": None, "path": None}, {"bytes": masks[2], "path": None}]
    elif kind == "paths":
        for i in (0, 2):
            (tmp_path / f"m{i}.png").write_bytes(masks[i])
        masks = ["m0.png", None, "m2.png"]
    table = pa.table({"image": [png(1), png(2), png(3)], "annotation": masks, "label": [0, 1, 0]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    source = opened(tmp_path / "t.parquet")
    assert [source.read(i) for i in range(3)] == [png(1), png(2), png(3)]
    assert [source.read_mask(i) for i in range(3)] == [png(7), b"", png(9)]
    assert listed(source.masks) == [True, False, True]
    assert source.mask_classes == ("a", "b")
    assert source.labels is None
    assert "2 images with masks, from column annotation" in source.notes
    assert pickle.loads(pickle.dumps(source)).read_mask(2) == png(9)
    assert open_source(tmp_path / "t.parquet").masks is None


def test_a_table_without_masks(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(1)], "other": [png(1)]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"no column of masks named mask, annotation.*--images\.mask-column names it"):
        opened(tmp_path / "t.parquet")
    assert opened(tmp_path / "t.parquet", mask_column="other").read_mask(0) == png(1)


def test_lists_have_no_masks(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a.png\n")
    with pytest.raises(ValueError, match="is a list, which has no masks"):
        opened(tmp_path / "l.txt")

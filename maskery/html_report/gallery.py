"""What a network makes of somebody's images: a map, nearest neighbours, attention; beside what it began with.

n images, D width, B a batch of them
"""

import base64
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.crops import CenterCrop
from ..data.dataset import ImageData, spread
from ..data.eval_dataset import EvalDataset
from ..data.loader import eval_batches
from ..data.views import to_float
from ..nn.vit import ViT
from ..pictures.attention import overlay
from ..pictures.strip import displayable
from ..text import plain

COLUMNS, TILE = 20, 64  # of the sheet of thumbnails
ASKED, NEAR = 6, 5  # rows of neighbours, and how many in each
NEIGHBOURS = 15  # of UMAP, its default: fewer images have no map of that kind
DIGITS = 1e-6  # relative: features that differ by less are one
LOOKED, SHOWN = 6, 176  # images with attention, and about how many pixels they are shown with


@dataclass(frozen=True)
class Dot:
    """An image: its place on the sheet of thumbnails and on the map, before and after, from 0 to 1."""

    name: str
    label: str  # "" where there is none
    colour: int
    i: int
    j: int
    now: tuple[float, float]
    before: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """An image and the most similar ones among the others, by both networks."""

    asked: Dot
    now: tuple[Dot, ...]
    before: tuple[Dot, ...]


@dataclass(frozen=True)
class Gallery:
    sheet: str  # all thumbnails as one data URI
    dots: tuple[Dot, ...]
    labels: tuple[tuple[str, int], ...]  # (class, colour) of those on the map
    how: str  # what the map is, in words
    rows: tuple[Row, ...]
    same: tuple[float, float | None] | None  # share of neighbours of the same class, now and before
    attention: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # name, (caption, data URI)
    held_out: bool


def gallery(
    data: ImageData, encoder: ViT, start: ViT | None, most: int, progress: Callable[[int, int], None] | None = None
) -> Gallery:
    """Of at most `most` held-out images, or training images where too few are held out.

    ValueError when none of them can be read.
    """
    held_out = len(data.held_out) >= 2 * NEAR
    which = spread(data.held_out if held_out else data.train, most)
    device = encoder.mean.device
    nets = {"now": encoder} | ({"before": start.to(device)} if start else {})
    tiles, read, found, looked = [], [], {name: [] for name in nets}, []
    done = 0
    for part in eval_batches(EvalDataset(data.images, which, CenterCrop(encoder.config.image_size), 32, device)):
        done += len(part["indices"]) + len(part["skipped"])
        if part["images"] is not None:
            images = to_float(part["images"], device)
            for name, net in nets.items():
                with torch.no_grad():
                    found[name].append(net(images)[1].float().mean(1).cpu())
            if not looked:
                looked = [*attention(images[:LOOKED], nets)]
            tiles += thumbnails(images)
            read.append(part["indices"])
        if progress:
            progress(done, len(which))
    if not tiles:
        raise ValueError("none of the images can be read")
    indices, features = np.concatenate(read), {name: torch.cat(x) for name, x in found.items()}

    labels = None if data.labels is None else data.labels[indices]
    names = [plain(str(data.images.source.names[i])) for i in indices.tolist()]
    classes = [
        "" if labels is None or y < 0 else plain(data.classes[y])
        for y in (labels if labels is not None else [-1] * len(indices))
    ]
    colours = {name: i % 10 for i, name in enumerate(sorted({c for c in classes if c}))}
    maps = {name: flat(x) for name, x in features.items()}
    places, how = {name: at for name, (at, _) in maps.items()}, maps["now"][1]
    dots = tuple(
        Dot(
            names[k],
            classes[k],
            colours.get(classes[k], 0),
            k % COLUMNS,
            k // COLUMNS,
            places["now"][k],
            places["before"][k] if start else None,
        )
        for k in range(len(names))
    )
    near = {name: nearest(x) for name, x in features.items()}
    asked = np.linspace(0, len(dots) - 1, min(ASKED, len(dots))).astype(int)
    rows = tuple(
        Row(dots[k], *(tuple(dots[i] for i in near[n][k].tolist()) if n in near else () for n in ("now", "before")))
        for k in asked.tolist()
    )
    alike = {
        n: float(np.mean([[classes[i] == classes[k] for i in row] for k, row in enumerate(x.tolist()) if classes[k]]))
        for n, x in near.items()
        if colours and x.shape[1]
    }
    shown = tuple((names[k], tuple(looked[k])) for k in range(len(looked)))
    return Gallery(
        sheet(tiles),
        dots,
        tuple(colours.items()) if len(colours) <= 10 else (),
        how,
        rows,
        (alike["now"], alike.get("before")) if alike else None,
        shown,
        held_out,
    )


def flat(features: Tensor) -> tuple[list[tuple[float, float]], str]:
    """Features [n, D] as places in the unit square, near each other when the images are alike to the network."""
    x = (features - features.mean(0)).double()
    alike = bool(x.abs().max() <= DIGITS * features.abs().max())  # UMAP would make islands of that, too
    x = torch.zeros_like(x) if alike else F.normalize(x, dim=1)
    umap = None if alike or len(x) <= NEIGHBOURS else _umap()
    if umap:
        at = torch.from_numpy(umap(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(x.numpy())).double()
        how = "UMAP of their features, where distances between groups say little"
    else:
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        at = F.pad(u[:, :2] * s[:2], (0, max(0, 2 - u.shape[1])))
        at = at * torch.where(at.abs().amax(0) == at.amax(0), 1.0, -1.0)  # a sign that does not depend on the solver
        share = float(s[:2].square().sum() / s.square().sum().clamp_min(1e-30))
        how = f"the two directions in which their features differ most (PCA, {share:.0%} of the variance)"
    low, high = torch.quantile(at, 0.01, dim=0), torch.quantile(at, 0.99, dim=0)
    at = ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return [(round(a, 4), round(1 - b, 4)) for a, b in at.tolist()], how


def _umap() -> Any:
    """umap-learn's, where it is installed and can be used; another package of that name has no UMAP."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # without TensorFlow
            return importlib.import_module("umap").UMAP
    except (ImportError, AttributeError):
        return None


def nearest(features: Tensor, k: int = NEAR) -> Tensor:
    """The k most similar other images of each, by cosine: [n, k], the most similar first."""
    x = F.normalize(features.double(), dim=1)
    alike = x @ x.T
    alike.fill_diagonal_(-2)
    return alike.topk(min(k, len(x) - 1), dim=1).indices


@torch.no_grad()
def attention(images: Tensor, nets: dict[str, ViT]) -> list[list[tuple[str, str]]]:
    """For each image [B, C, H, W]: (caption, data URI) of the image and of where each network's class token looks."""
    columns = {"image": images}
    for name, caption in (("before", "before"), ("now", "now")):
        if name in nets:
            net = nets[name]
            columns[caption] = overlay(images, net.attend(net.normalise(images))[1], net.grid(images))
    shown = displayable(columns)
    return [[(caption, _uri(_picture(x[b]), SHOWN)) for caption, x in shown.items()] for b in range(len(images))]


def thumbnails(images: Tensor) -> list[Image.Image]:
    """[B, C, H, W] in [0, 1] as pictures of TILE pixels."""
    return [_picture(x).resize((TILE, TILE), Image.Resampling.BICUBIC) for x in displayable({"": images})[""]]


def sheet(tiles: list[Image.Image]) -> str:
    """All thumbnails as one JPEG, row by row."""
    page = Image.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE))
    for k, tile in enumerate(tiles):
        page.paste(tile, (k % COLUMNS * TILE, k // COLUMNS * TILE))
    return _encoded(page)


def _picture(x: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(x.permute(1, 2, 0).numpy()))


def _uri(image: Image.Image, side: int) -> str:
    scale = max(1, round(side / max(image.size)))
    smooth = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    smooth.thumbnail((2 * side, 2 * side))
    return _encoded(smooth)


def _encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"

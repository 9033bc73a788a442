"""A run's images as its network sees them: a map, nearest neighbours, attention; now and before the first step.

n images, D width, B a batch of them
"""

import importlib
import warnings
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
from ..html.page import data_uri
from ..nn.vit import ViT
from ..pictures.reconstruction import overlay
from ..pictures.strip import displayable, to_picture
from ..terminal import Tick, no_progress
from ..text import plain

COLUMNS, TILE = 20, 64  # of the sheet of thumbnails
QUERIES, NEIGHBOURS = 6, 5  # rows of nearest neighbours, and how many in each
UMAP_NEIGHBOURS = 15  # its default: fewer images have no map of that kind
TOLERANCE = 1e-6  # relative: features that differ by less are equal
ATTENTION_IMAGES, ATTENTION_PIXELS = 6, 176  # images with attention, and about how large they are shown


@dataclass(frozen=True)
class Dot:
    """An image: its place on the sheet of thumbnails, and on the map (0 to 1) now and before the first step."""

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

    query: Dot
    now: tuple[Dot, ...]
    before: tuple[Dot, ...]


@dataclass(frozen=True)
class Gallery:
    sheet: str  # all thumbnails as one data URI
    dots: tuple[Dot, ...]
    labels: tuple[tuple[str, int], ...]  # (class, colour) of those on the map
    projection: str  # what the map is, in words
    rows: tuple[Row, ...]
    same_class: tuple[float, float | None] | None  # fraction of neighbours of the same class, now and before
    attention: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # name, (caption, data URI)
    held_out: bool


@dataclass(frozen=True)
class Readings:
    """What the networks, "now" and perhaps "before", compute for the images that can be read."""

    indices: np.ndarray  # [n] of the images in the data
    features: dict[str, Tensor]  # by network, [n, D]
    tiles: list[Image.Image]
    attention: list[list[tuple[str, str]]]  # of the first images: (caption, data URI)


def gallery(data: ImageData, encoder: ViT, start: ViT | None, most: int, progress: Tick = no_progress) -> Gallery:
    """Show at most `most` held-out images, or training images where too few are held out.

    ValueError when none of them can be read.
    """
    held_out = len(data.held_out) >= 2 * NEIGHBOURS
    nets = {"now": encoder} | ({"before": start.to(encoder.mean.device)} if start else {})
    readings = read(data, spread(data.held_out if held_out else data.train, most), nets, progress)
    numbers = [-1] * len(readings.indices) if data.labels is None else data.labels[readings.indices].tolist()
    classes = [plain(data.classes[y]) if y >= 0 else "" for y in numbers]  # "" where there is none
    colours = {name: i % 10 for i, name in enumerate(sorted({c for c in classes if c}))}
    names = [plain(str(data.images.source.names[i])) for i in readings.indices.tolist()]
    maps = {name: flat(x) for name, x in readings.features.items()}
    before = maps["before"][0] if start else [None] * len(names)
    dots = tuple(
        Dot(names[k], classes[k], colours.get(classes[k], 0), k % COLUMNS, k // COLUMNS, maps["now"][0][k], before[k])
        for k in range(len(names))
    )
    near = {name: nearest(x).tolist() for name, x in readings.features.items()}
    similar = {name: [tuple(dots[i] for i in row) for row in rows] for name, rows in near.items()}
    queries = np.linspace(0, len(dots) - 1, min(QUERIES, len(dots))).astype(int).tolist()
    return Gallery(
        sheet(readings.tiles),
        dots,
        tuple(colours.items()) if len(colours) <= 10 else (),
        maps["now"][1],
        tuple(Row(dots[k], similar["now"][k], similar["before"][k] if start else ()) for k in queries),
        same_class(near, classes),
        tuple((names[k], tuple(columns)) for k, columns in enumerate(readings.attention)),
        held_out,
    )


def read(data: ImageData, indices: np.ndarray, nets: dict[str, ViT], progress: Tick) -> Readings:
    """Compute features, thumbnails and attention, batch by batch. ValueError when no image can be read."""
    net = nets["now"]
    device, done = net.mean.device, 0
    tiles: list[Image.Image] = []
    readable, attended = [], list[list[tuple[str, str]]]()
    features: dict[str, list[Tensor]] = {name: [] for name in nets}
    for part in eval_batches(EvalDataset(data.images, indices, CenterCrop(net.config.image_size), 32, device)):
        done += len(part["indices"]) + len(part["skipped"])
        if part["images"] is not None:
            images = to_float(part["images"], device)
            for name, n in nets.items():
                with torch.no_grad():
                    features[name].append(n(images)[1].float().mean(1).cpu())
            attended = attended or attention(images[:ATTENTION_IMAGES], nets)
            small = (to_picture(x) for x in displayable({"": images})[""])
            tiles += [picture.resize((TILE, TILE), Image.Resampling.BICUBIC) for picture in small]
            readable.append(part["indices"])
        progress(done, len(indices))
    if not tiles:
        raise ValueError("none of the images can be read")
    return Readings(np.concatenate(readable), {name: torch.cat(x) for name, x in features.items()}, tiles, attended)


def same_class(near: dict[str, list[list[int]]], classes: list[str]) -> tuple[float, float | None] | None:
    """Fraction of nearest neighbours of the same class, now and before; None without classes or neighbours."""
    if not any(classes) or not near["now"][0]:
        return None
    fractions = {
        name: float(np.mean([[classes[i] == classes[k] for i in row] for k, row in enumerate(rows) if classes[k]]))
        for name, rows in near.items()
    }
    return fractions["now"], fractions.get("before")


def flat(features: Tensor) -> tuple[list[tuple[float, float]], str]:
    """Project features [n, D] into the unit square: UMAP where it is installed, else PCA. Also says which, in words."""
    x = (features - features.mean(0)).double()
    alike = bool(x.abs().max() <= TOLERANCE * features.abs().max())  # UMAP would make islands of that, too
    x = torch.zeros_like(x) if alike else F.normalize(x, dim=1)
    umap = None if alike or len(x) <= UMAP_NEIGHBOURS else _umap()
    if umap:
        projector = umap(n_neighbors=UMAP_NEIGHBOURS, random_state=0, n_jobs=1)
        at = torch.from_numpy(projector.fit_transform(x.numpy())).double()
        projection = "UMAP of their features, where distances between groups say little"
    else:
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        at = F.pad(u[:, :2] * s[:2], (0, max(0, 2 - u.shape[1])))
        at = at * torch.where(at.abs().amax(0) == at.amax(0), 1.0, -1.0)  # a sign that does not depend on the solver
        variance = float(s[:2].square().sum() / s.square().sum().clamp_min(1e-30))
        projection = f"the two directions in which their features differ most (PCA, {variance:.0%} of the variance)"
    low, high = torch.quantile(at, 0.01, dim=0), torch.quantile(at, 0.99, dim=0)
    at = ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return [(round(a, 4), round(1 - b, 4)) for a, b in at.tolist()], projection


def _umap() -> Any:
    """umap-learn's, where it is installed and can be used; another package of that name has no UMAP."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # without TensorFlow
            return importlib.import_module("umap").UMAP
    except (ImportError, AttributeError):
        return None


def nearest(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The k most similar other images of each, by cosine: [n, k], the most similar first."""
    x = F.normalize(features.double(), dim=1)
    similarity = x @ x.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(min(k, len(x) - 1), dim=1).indices


@torch.no_grad()
def attention(images: Tensor, nets: dict[str, ViT]) -> list[list[tuple[str, str]]]:
    """For each image [B, C, H, W]: (caption, data URI) of the image and of each network's class-token attention."""
    columns = {"image": images}
    for name, net in reversed(nets.items()):  # before, then now
        columns[name] = overlay(images, net.attend(net.normalise(images))[1], net.grid(images))
    uris = [[(caption, _uri(to_picture(x))) for x in pictures] for caption, pictures in displayable(columns).items()]
    return [list(row) for row in zip(*uris, strict=True)]


def sheet(tiles: list[Image.Image]) -> str:
    """All thumbnails as one JPEG, row by row."""
    page = Image.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE))
    for k, tile in enumerate(tiles):
        page.paste(tile, (k % COLUMNS * TILE, k // COLUMNS * TILE))
    return data_uri(page, "JPEG", quality=82)


def _uri(image: Image.Image) -> str:
    scale = max(1, round(ATTENTION_PIXELS / max(image.size)))
    smooth = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    smooth.thumbnail((2 * ATTENTION_PIXELS, 2 * ATTENTION_PIXELS))
    return data_uri(smooth, "JPEG", quality=82)

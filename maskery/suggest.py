"""Suggest a run for somebody's images. These rules are ours: the papers have recipes for a million images only."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .config import OptimConfig, Run
from .methods import METHODS
from .nn.decoder import DecoderSize
from .recipes import DECODERS

Size = int | tuple[int, int]  # a square, or (height, width)
IMAGENET = 1_281_167  # training images
MANY = 1_000_000  # images from which on a run is as long as MAE's of ImageNet


@dataclass(frozen=True)
class Suggestion:
    run: Run
    reasons: tuple[str, ...]  # one sentence for each choice


def suggest(
    images: int,
    typical_size: tuple[int, int],
    device: Literal["cpu", "cuda"] = "cuda",
    method: str = "mae",
    given: Mapping[str, Any] | None = None,
) -> Suggestion:
    """Suggest the run for so many training images of a typical (height, width) in pixels.

    `given` has the user's choices of model, patch_size, image_size and batch_size, which are kept and not explained.
    Pure: the same arguments, the same run.
    """
    chosen, cpu, reasons = dict(given or {}), device == "cpu", list[str]()

    def choose(name: str, choice: tuple[Any, str]) -> Any:
        if name not in chosen:
            chosen[name] = choice[0]
            reasons.append(choice[1])
        return chosen[name]

    image_size = choose("image_size", _image_size(typical_size, cpu))
    choose("patch_size", _patch_size(image_size, cpu))
    model = choose("model", _model(images, cpu))
    batch_size = choose("batch_size", _batch_size(images, cpu))
    choose("epochs", _epochs(images, batch_size, cpu))
    base_lr, lr_reason = _base_lr(model, batch_size)
    reasons.append(lr_reason)
    settings = METHODS[method].Config()
    if hasattr(settings, "decoder"):
        decoder = DECODERS.get(model, DecoderSize())
        reasons.append(f"decoder {decoder.dim} wide, {decoder.depth} blocks: goes with {model}")
        settings = replace(settings, decoder=decoder)
    if images < 10_000:
        reasons.append(f"note: {images:,} images are few; compare with ImageNet weights before you rely on your own")
    run = Run(settings, method=method, optim=OptimConfig(base_lr=base_lr), **chosen)
    return Suggestion(run, tuple(reasons))


def _image_size(typical_size: tuple[int, int], cpu: bool) -> tuple[int, str]:
    height, width = typical_size
    side = min(height, width)
    size = max(16, min(64 if cpu else 224, side // 16 * 16)) if side < 224 or cpu else 224
    because = "what a CPU can do" if cpu and side > 64 else "the papers' size" if side >= 224 else "as the images are"
    return size, f"image size {size}: the images are {height} x {width}; {because}"


def _patch_size(image_size: Size, cpu: bool) -> tuple[int, str]:
    """The finest grid of at most 16 patches a side on a GPU, the coarsest of at least 8 on a CPU."""
    edge = min(image_size) if isinstance(image_size, tuple) else image_size
    dividing = [p for p in (4, 8, 16) if edge % p == 0 and edge // p >= 4] or [4 if edge % 4 == 0 else 1]
    fine = [p for p in dividing if edge // p <= 16] or dividing[-1:]
    coarse = [p for p in dividing if edge // p >= 8] or dividing[:1]
    patch_size = coarse[-1] if cpu else fine[0]
    grid = edge // patch_size
    return patch_size, f"patch size {patch_size}: a grid of {grid} patches a side, {grid * grid} a square image"


def _model(images: int, cpu: bool) -> tuple[str, str]:
    if cpu:
        return "vit-micro", "model vit-micro: the largest that learns something on a CPU within minutes"
    steps = [(3_000, "vit-tiny"), (100_000, "vit-small"), (5_000_000, "vit-base")]
    model = next((m for limit, m in steps if images < limit), "vit-large")
    return model, f"model {model}: a fair match for {images:,} images"


def _batch_size(images: int, cpu: bool) -> tuple[int, str]:
    """A power of two with at least eight steps an epoch."""
    sizes = ((20_000, 256), (100_000, 512), (MANY, 1024))
    batch_size = largest = 64 if cpu else next((size for limit, size in sizes if images < limit), 4096)
    while batch_size > 8 and images / batch_size < 8:
        batch_size //= 2
    why = "eight steps an epoch" if batch_size < largest else "for this many images"
    return batch_size, f"batch {batch_size}: {why}"


def _epochs(images: int, batch_size: int, cpu: bool) -> tuple[float, str]:
    if images >= MANY and not cpu:  # MAE's 800 passes over ImageNet: after that other images teach more
        seen, least, most = 800 * IMAGENET, 1, 800
    else:
        seen, least, most = (400_000, 5, 400) if cpu else (40_000 * batch_size, 400, 4000)
    epochs = min(max(round(seen / max(images, 1)), least), most)
    return float(epochs), f"{epochs} epochs: {epochs * images / batch_size:,.0f} steps; fewer images need more passes"


def _base_lr(model: str, batch_size: int) -> tuple[float, str]:
    if model == "vit-micro":
        base_lr, why = 2.5e-3 * 256 / batch_size, "lr 2.5e-3, which a narrow network bears and a short run needs"
    else:  # with Adam the learning rate goes with the square root of the batch, from the paper's 2.4e-3 at 4096
        base_lr = 1.5e-4 * (4096 / batch_size) ** 0.5
        why = "the paper's 1.5e-4 at batch 4096, square-root scaled"
    return float(f"{base_lr:.2g}"), f"base lr {base_lr:.2g}, 5 % warm-up: {why}"

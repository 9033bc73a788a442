"""Suggest a run for somebody's images. These rules are ours: the papers have recipes for a million images only."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from .config import OptimConfig, Run
from .methods import METHODS
from .nn.decoder import DecoderSize
from .recipes import DECODERS

Size = int | tuple[int, int]  # a square, or (height, width)
IMAGENET = 1_281_167  # training images
FEW = "note: {:,} images are few; compare with ImageNet weights before you rely on your own"
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
    given, cpu, reasons = given or {}, device == "cpu", list[str]()

    def choose(name: str, value: tuple[Any, str]) -> Any:
        if name in given:
            return given[name]
        reasons.append(value[1])
        return value[0]

    image_size = choose("image_size", _image_size(typical_size, cpu))
    patch_size = choose("patch_size", _patch_size(image_size, cpu))
    model = choose("model", _model(images, cpu))
    batch_size = choose("batch_size", _batch_size(images, cpu))
    epochs, epochs_reason = _epochs(images, batch_size, cpu)
    base_lr, lr_reason = _base_lr(model, batch_size)
    settings, decoder_reasons = _settings(method, model)
    reasons += [epochs_reason, lr_reason, *decoder_reasons]
    reasons += [FEW.format(images)] if images < 10_000 else []
    run = Run(
        settings=settings,
        method=method,
        model=model,
        patch_size=patch_size,
        image_size=image_size,
        epochs=float(epochs),
        batch_size=batch_size,
        optim=OptimConfig(base_lr=float(f"{base_lr:.2g}")),
    )
    return Suggestion(run, tuple(reasons))


def _settings(method: str, model: str) -> tuple[Any, list[str]]:
    """The method's defaults, with the decoder that goes with the model."""
    settings, decoder = METHODS[method].Config(), DECODERS.get(model, DecoderSize())
    if "decoder" not in {f.name for f in fields(settings)}:
        return settings, []
    reason = f"decoder {decoder.dim} wide, {decoder.depth} blocks: goes with {model}"
    return replace(settings, decoder=decoder), [reason]


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
    largest = 64 if cpu else 256 if images < 20_000 else 512 if images < 100_000 else 1024
    largest = 4096 if images >= MANY and not cpu else largest
    batch_size = largest
    while batch_size > 8 and images / batch_size < 8:
        batch_size //= 2
    return batch_size, f"batch {batch_size}: " + (
        "eight steps an epoch" if batch_size < largest else "for this many images"
    )


def _epochs(images: int, batch_size: int, cpu: bool) -> tuple[int, str]:
    if images >= MANY and not cpu:  # MAE's 800 passes over ImageNet: after that other images teach more
        seen, least, most = 800 * IMAGENET, 1, 800
    else:
        seen, least, most = (400_000, 5, 400) if cpu else (40_000 * batch_size, 400, 4000)
    epochs = min(max(round(seen / max(images, 1)), least), most)
    return epochs, f"{epochs} epochs: {epochs * images / batch_size:,.0f} steps; fewer images need more passes"


def _base_lr(model: str, batch_size: int) -> tuple[float, str]:
    if model == "vit-micro":
        base_lr = 2.5e-3 * 256 / batch_size
        return base_lr, (
            f"base lr {base_lr:.2g}, 5 % warm-up: lr 2.5e-3, which a narrow network bears and a short run needs"
        )
    # with Adam the learning rate goes with the square root of the batch, from the paper's 2.4e-3 at 4096
    base_lr = 1.5e-4 * (4096 / batch_size) ** 0.5
    return base_lr, f"base lr {base_lr:.2g}, 5 % warm-up: the paper's 1.5e-4 at batch 4096, square-root scaled"

"""How a segmenter is trained, from the model and the number of images with masks.

Stated (MAE's configuration in mmsegmentation, ViT-B on ADE20K): 160,000 steps of 16 crops of 512, AdamW (0.9, 0.999),
learning rate 1e-4 after 1,500 steps of warm-up, weight decay 0.05, layer decay 0.65, drop path 0.1. MAE itself says 100
epochs, which are 126,000 steps. Ours: a cosine instead of a straight line down to 0, all other models, small data,
everything frozen.
"""

from dataclasses import replace

from ...config import Run, WatchConfig
from ...suggest import Suggestion
from ..small_data import LabelledData, adamw, at_least, known_labels, size_text, small_batch, suggested
from .objective import SegmentConfig

LARGE = 10_000  # images with masks from which ADE20K's recipe is taken
STEPS, BATCH, SIDE = 160_000, 16, 512  # of ADE20K's recipe; pixels of a crop
LARGER = {"vit-large": (0.75, 0.2), "vit-huge": (0.75, 0.3)}  # layer decay, drop path: as in MAE's fine-tuning


def segmentation_recipe(run: Run, data: LabelledData) -> Suggestion:
    """ADE20K's recipe with UPerNet, or for fewer images the all-MLP decoder with early stopping."""
    large, (decay, drop) = data.images >= LARGE, LARGER.get(run.model, (0.65, 0.1))
    decay = decay if large else max(decay, 0.75)
    batch, lr, warmup = (BATCH, 1e-4, 1500 / STEPS) if large else (small_batch(data.images), 5e-4, 0.05)
    settings = SegmentConfig(layer_decay=decay, drop_path=drop, labels=known_labels(run), ids=run.settings.ids)
    settings = settings if large else replace(settings, head="mlp")
    run = at_least(run, SIDE) if large else run
    why = [f"ADE20K's recipe: {STEPS:,} steps of {BATCH} crops of {size_text(run)}, UPerNet, lr {lr:g}"]
    if not large:
        why = [
            f"100 epochs of batches of {batch}, all-MLP decoder, lr {lr:g}, layer decay {decay:g}: ours for "
            f"{data.images:,} images (--settings.head upernet: the published decoder, several times as slow)"
        ]
    if run.settings.freeze:
        lr = 1e-3
        why.append(f"lr {lr:g}: ours where only the head is trained")
    optim, watch = adamw(lr, batch, warmup=warmup, betas=(0.9, 0.999)), WatchConfig(looks=20, held_out=64, pictures=4)
    length = {"epochs": None, "steps": STEPS} if large else {"epochs": 100.0, "steps": None}
    run = replace(run, settings=settings, method="segment", batch_size=batch, optim=optim, watch=watch, **length)
    return suggested(run, why, "miou" if not large and data.divisible else None)

"""How a segmenter is trained, from the model and the number of images with masks.

Stated (MAE's configuration in mmsegmentation, ViT-B on ADE20K): 160,000 steps of 16 crops of 512, AdamW (0.9, 0.999),
learning rate 1e-4 after 1,500 steps of warm-up, weight decay 0.05, layer decay 0.65, drop path 0.1. MAE itself says 100
epochs, which are 126,000 steps. Ours: a cosine instead of a straight line down to 0, all other models, small data,
everything frozen.
"""

from dataclasses import replace

from ...config import Run, WatchConfig
from ...suggest import Suggestion
from ..small_data import EARLY_STOPPING, LabelledData, adamw, known_labels, small_batch, stopped_early
from .objective import SegmentConfig

LARGE = 10_000  # images with masks from which ADE20K's recipe is taken
STEPS, BATCH, SIDE = 160_000, 16, 512  # of ADE20K's recipe; pixels of a crop
FROZEN_LR = 1e-3
LARGER = {"vit-large": (0.75, 0.2), "vit-huge": (0.75, 0.3)}  # layer decay, drop path: as in MAE's fine-tuning
BETAS = (0.9, 0.999)


def segmentation_recipe(run: Run, data: LabelledData) -> Suggestion:
    """ADE20K's recipe with UPerNet, or for fewer images the all-MLP decoder with early stopping."""
    freeze, (decay, drop) = run.settings.freeze, LARGER.get(run.model, (0.65, 0.1))
    settings = SegmentConfig(layer_decay=decay, drop_path=drop, labels=known_labels(run), ids=run.settings.ids)
    run = replace(run, settings=settings, method="segment", watch=WatchConfig(looks=20, held_out=64, pictures=4))
    run, why = published(run) if data.images >= LARGE else for_few_images(run, data)
    if freeze:
        run = replace(run, optim=replace(run.optim, base_lr=FROZEN_LR * 256 / run.batch_size))
        why.append(f"lr {FROZEN_LR:g}: ours where only the head is trained")
    return Suggestion(run, tuple(why))


def published(run: Run) -> tuple[Run, list[str]]:
    lr = 1e-4
    if run.size[0] == run.size[1]:
        run = replace(run, image_size=max(SIDE // run.patch_size * run.patch_size, *run.size))
    optim = adamw(lr, BATCH, warmup=1500 / STEPS, betas=BETAS)
    why = f"ADE20K's recipe: {STEPS:,} steps of {BATCH} crops of {run.size[0]} x {run.size[1]}, UPerNet, lr {lr:g}"
    return replace(run, epochs=None, steps=STEPS, batch_size=BATCH, optim=optim), [why]


def for_few_images(run: Run, data: LabelledData) -> tuple[Run, list[str]]:
    lr, batch, decay = 5e-4, small_batch(data.images), max(run.settings.layer_decay, 0.75)
    settings = replace(run.settings, head="mlp", layer_decay=decay)
    optim = adamw(lr, batch, warmup=0.05, betas=BETAS)
    run = replace(run, settings=settings, epochs=100.0, steps=None, batch_size=batch, optim=optim)
    why = [
        f"100 epochs of batches of {batch}, all-MLP decoder, lr {lr:g}, layer decay {decay:g}: ours for "
        f"{data.images:,} images (--settings.head upernet: the published decoder, several times as slow)"
    ]
    if data.divisible:
        run = stopped_early(run, "miou")
        why.append(EARLY_STOPPING)
    return run, why

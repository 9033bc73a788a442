"""How a detector is trained, from the model and the number of images.

Stated (ViTDet's configuration of Mask R-CNN in detectron2, COCO's 118,000 images): 100 epochs of batches of 64 at 1024
pixels, large-scale jitter 0.1 to 2, AdamW (0.9, 0.999), learning rate 1e-4 after 250 steps of warm-up, weight decay
0.1; layer decay and drop path 0.7 and 0.1 (B), 0.8 and 0.4 (L), 0.9 and 0.5 (H, 75 epochs); windows of 14 patches, four
global blocks. Ours: a cosine instead of two steps down at 89 % and 96 %, all other models, small data,
everything frozen.
"""

from dataclasses import replace

from ...config import Run, WatchConfig
from ...suggest import Suggestion
from ..small_data import FEWEST_DIVIDED, LabelledData, adamw, at_least, known_labels, size_text, small_batch, suggested
from .objective import DetectConfig

LARGE = 10_000  # images from which ViTDet's recipe is taken
BATCH, SIDE, WINDOW = 64, 1024, 14  # of ViTDet's recipe; pixels of its images, patches of its windows
LARGER = {"vit-large": (100.0, 0.8, 0.4), "vit-huge": (75.0, 0.9, 0.5)}  # epochs, layer decay, drop path
BASE = (100.0, 0.7, 0.1)


def detection_recipe(run: Run, data: LabelledData) -> Suggestion:
    """ViTDet's recipe, or for fewer images milder jitter at the image size that is asked for, with early stopping."""
    large, (epochs, decay, drop) = data.images >= LARGE, LARGER.get(run.model, BASE)
    decay = decay if large else max(decay, 0.75)
    batch, lr, warmup = small_batch(data.images), 2e-4, 0.05
    if large:
        batch, lr, warmup = BATCH, 1e-4, 250 * BATCH / (epochs * data.images)
    settings = DetectConfig(labels=known_labels(run), masks=run.settings.masks, layer_decay=decay, drop_path=drop)
    settings = replace(settings, window=WINDOW) if large else replace(settings, scale=(0.5, 1.5), rois=128)
    run = at_least(run, SIDE) if large else run
    why = [
        f"ViTDet's recipe: {epochs:g} epochs of batches of {BATCH} at {size_text(run)}, jitter 0.1 to 2, windows of "
        f"{WINDOW}, layer decay {decay:g}, drop path {drop:g}, lr {lr:g}"
        if large
        else f"{epochs:g} epochs of batches of {batch} at {size_text(run)}, jitter 0.5 to 1.5, lr {lr:g}, layer decay "
        f"{decay:g}, 128 proposals an image: ours for {data.images:,} images (--image-size 512: small objects are "
        "found, several times as slow)"
    ]
    if run.settings.freeze:
        lr *= 5
        why.append(f"lr {lr:g}: ours where only pyramid and heads are trained")
    optim = adamw(lr, batch, warmup=warmup, betas=(0.9, 0.999), weight_decay=0.1)
    run = replace(run, settings=settings, method="detect", epochs=epochs, steps=None, batch_size=batch, optim=optim)
    run = replace(run, watch=WatchConfig(looks=20, held_out=64, pictures=4))
    return suggested(run, why, "box_ap" if not large and data.divisible and data.images >= FEWEST_DIVIDED else None)

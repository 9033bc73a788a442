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
from ..small_data import EARLY_STOPPING, LabelledData, adamw, known_labels, small_batch, stopped_early
from .objective import DetectConfig

LARGE = 10_000  # images from which ViTDet's recipe is taken
BATCH, SIDE, WINDOW = 64, 1024, 14  # of ViTDet's recipe; pixels of its images, patches of its windows
FEWEST_DIVIDED = 20  # images below which none are held out for validation
LARGER = {"vit-large": (100.0, 0.8, 0.4), "vit-huge": (75.0, 0.9, 0.5)}  # epochs, layer decay, drop path
BASE = (100.0, 0.7, 0.1)
BETAS = (0.9, 0.999)


def detection_recipe(run: Run, data: LabelledData) -> Suggestion:
    """ViTDet's recipe, or for fewer images milder jitter at the image size that is asked for, with early stopping."""
    given, (epochs, decay, drop) = run.settings, LARGER.get(run.model, BASE)
    settings = DetectConfig(labels=known_labels(run), masks=given.masks, layer_decay=decay, drop_path=drop)
    watch = WatchConfig(looks=20, held_out=64, pictures=4)
    run = replace(run, settings=settings, method="detect", epochs=epochs, steps=None, watch=watch)
    run, why = published(run, epochs, data.images) if data.images >= LARGE else for_few_images(run, data)
    if given.freeze:
        run = replace(run, optim=replace(run.optim, base_lr=5 * run.optim.base_lr))
        why.append(f"lr {run.lr:g}: ours where only pyramid and heads are trained")
    return Suggestion(run, tuple(why))


def published(run: Run, epochs: float, images: int) -> tuple[Run, list[str]]:
    lr, settings = 1e-4, replace(run.settings, window=WINDOW)
    if run.size[0] == run.size[1]:
        run = replace(run, image_size=max(SIDE // run.patch_size * run.patch_size, *run.size))
    optim = adamw(lr, BATCH, warmup=250 * BATCH / (epochs * images), betas=BETAS, weight_decay=0.1)
    why = (
        f"ViTDet's recipe: {epochs:g} epochs of batches of {BATCH} at {run.size[0]} x {run.size[1]}, jitter 0.1 to "
        f"2, windows of {WINDOW}, layer decay {settings.layer_decay:g}, drop path {settings.drop_path:g}, lr {lr:g}"
    )
    return replace(run, settings=settings, batch_size=BATCH, optim=optim), [why]


def for_few_images(run: Run, data: LabelledData) -> tuple[Run, list[str]]:
    lr, batch, decay = 2e-4, small_batch(data.images), max(run.settings.layer_decay, 0.75)
    settings = replace(run.settings, scale=(0.5, 1.5), layer_decay=decay, rois=128)
    optim = adamw(lr, batch, warmup=0.05, betas=BETAS, weight_decay=0.1)
    run = replace(run, settings=settings, batch_size=batch, optim=optim)
    why = [
        f"{run.epochs:g} epochs of batches of {batch} at {run.size[0]} x {run.size[1]}, jitter 0.5 to 1.5, lr {lr:g}, "
        f"layer decay {decay:g}, 128 proposals an image: ours for {data.images:,} images (--image-size 512: small "
        "objects are found, several times as slow)"
    ]
    if data.divisible and data.images >= FEWEST_DIVIDED:
        run = stopped_early(run, "box_ap")
        why.append(EARLY_STOPPING)
    return run, why

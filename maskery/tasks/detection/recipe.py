"""How a detector is trained, from the model and the number of images.

Stated (ViTDet's configuration of Mask R-CNN in detectron2, COCO's 118,000 images): 100 epochs of batches of 64 at 1024
pixels, large-scale jitter 0.1 to 2, AdamW (0.9, 0.999), learning rate 1e-4 after 250 steps of warm-up, weight decay
0.1; layer decay and drop path 0.7 and 0.1 (B), 0.8 and 0.4 (L), 0.9 and 0.5 (H, 75 epochs); windows of 14 patches, four
global blocks. Ours: a cosine instead of two steps down at 89 % and 96 %, all other models, small data,
everything frozen.
"""

from dataclasses import replace

from ...config import OptimConfig, Run, WatchConfig
from ...recipes import Suggestion
from ..labels import LabelsConfig
from .objective import DetectConfig

LARGE = 10_000  # images from which ViTDet's recipe is taken
SIDE = 1024  # pixels of its images
WINDOW = 14
LARGER = {"vit-large": (100.0, 0.8, 0.4), "vit-huge": (75.0, 0.9, 0.5)}  # epochs, layer decay, drop path
USUAL = (100.0, 0.7, 0.1)


def detect(
    run: Run, images: int, *, channels: int = 3, bits: int = 8, several: bool = False, spare: bool = True
) -> Suggestion:
    """ViTDet's recipe, or for fewer images milder jitter at the asked size, stopped by a part of them."""
    asked = run.settings if isinstance(run.settings, DetectConfig) else DetectConfig()
    epochs, decay, drop = LARGER.get(run.model, USUAL)
    settings = DetectConfig(
        labels=LabelsConfig(classes=asked.labels.classes), masks=asked.masks, layer_decay=decay, drop_path=drop
    )
    watch = WatchConfig(looks=20, held_out=64, pictures=4)
    if images >= LARGE:
        size = SIDE // run.patch_size * run.patch_size
        run = replace(run, image_size=max(size, *run.size) if run.size[0] == run.size[1] else run.image_size)
        settings = replace(settings, window=WINDOW)
        batch, lr, warmup = 64, 1e-4, 250 * 64 / (epochs * images)
        why = [
            f"ViTDet's recipe: {epochs:g} epochs of batches of 64 at {run.size[0]} x {run.size[1]}, jitter 0.1 to 2, "
            f"windows of {WINDOW}, layer decay {decay:g}, drop path {drop:g}, lr {lr:g}"
        ]
    else:
        batch = next((b for b in (16, 8) if images >= 16 * b), 4)
        lr, warmup = 2e-4, 0.05
        settings = replace(settings, scale=(0.5, 1.5), layer_decay=max(decay, 0.75), rois=128)
        why = [
            f"{epochs:g} epochs of batches of {batch} at {run.size[0]} x {run.size[1]}, jitter 0.5 to 1.5, lr {lr:g}, "
            f"layer decay {settings.layer_decay:g}, 128 proposals an image: ours for {images:,} images (--image-size "
            "512: small objects are found, several times as slow)"
        ]
        if spare and images >= 20:
            settings = replace(settings, labels=replace(settings.labels, tune=0.1))
            watch = replace(watch, best="tune_box_ap", patience=8)
            why.append("a tenth of the training images is kept out, and says which epoch was best and when to stop")
    if asked.freeze:
        lr *= 5
        why.append(f"lr {lr:g}: ours where only pyramid and heads are trained")
    run = replace(
        run,
        settings=settings,
        method="detect",
        epochs=epochs,
        steps=None,
        batch_size=batch,
        optim=OptimConfig(base_lr=lr * 256 / batch, warmup=warmup, betas=(0.9, 0.999), weight_decay=0.1),
        watch=watch,
    )
    return Suggestion(run, tuple(why))

"""How a segmenter is trained, from the model and the number of images with masks.

Stated (MAE's configuration in mmsegmentation, ViT-B on ADE20K): 160,000 steps of 16 crops of 512, AdamW (0.9, 0.999),
learning rate 1e-4 after 1,500 steps of warm-up, weight decay 0.05, layer decay 0.65, drop path 0.1. MAE itself says 100
epochs, which are 126,000 steps. Ours: a cosine instead of a straight line down to 0, all other models, small data,
everything frozen.
"""

from dataclasses import replace

from ...config import OptimConfig, Run, WatchConfig
from ...recipes import Suggestion
from ..labels import LabelsConfig
from .objective import SegmentConfig

LARGE = 10_000  # images with masks from which ADE20K's recipe is taken
BATCH = 16
LARGER = {"vit-large": (0.75, 0.2), "vit-huge": (0.75, 0.3)}  # layer decay, drop path: as in MAE's fine-tuning


def segment(
    run: Run, images: int, *, channels: int = 3, bits: int = 8, several: bool = False, spare: bool = True
) -> Suggestion:
    """ADE20K's recipe with UPerNet, or for fewer images the all-MLP decoder, stopped by a part of them."""
    asked = run.settings if isinstance(run.settings, SegmentConfig) else SegmentConfig()
    settings = SegmentConfig(labels=LabelsConfig(classes=asked.labels.classes), ids=asked.ids)
    decay, drop = LARGER.get(run.model, (0.65, 0.1))
    watch, steps, epochs = WatchConfig(looks=20, held_out=64, pictures=4), None, None
    if images >= LARGE:
        size = 512 // run.patch_size * run.patch_size
        settings = replace(settings, layer_decay=decay, drop_path=drop)
        run = replace(run, image_size=max(size, *run.size) if run.size[0] == run.size[1] else run.image_size)
        steps, batch, lr, warmup = 160_000, BATCH, 1e-4, 1500 / 160_000
        why = [f"ADE20K's recipe: 160,000 steps of 16 crops of {run.size[0]} x {run.size[1]}, UPerNet, lr {lr:g}"]
    else:
        batch = next((b for b in (16, 8) if images >= 16 * b), 4)
        epochs, lr, warmup = 100.0, 5e-4, 0.05
        settings = replace(settings, head="mlp", layer_decay=max(decay, 0.75), drop_path=drop)
        why = [
            f"100 epochs of batches of {batch}, all-MLP decoder, lr {lr:g}, layer decay {settings.layer_decay:g}: ours "
            f"for {images:,} images (--settings.head upernet: the published decoder, several times as slow)"
        ]
        if spare:
            settings = replace(settings, labels=replace(settings.labels, tune=0.1))
            watch = replace(watch, best="tune_miou", patience=8)
            why.append("a tenth of the training images is kept out, and says which epoch was best and when to stop")
    if asked.freeze:
        lr = 1e-3
        why.append(f"lr {lr:g}: ours where only the head is trained")
    run = replace(
        run,
        settings=settings,
        method="segment",
        epochs=epochs,
        steps=steps,
        batch_size=batch,
        optim=OptimConfig(base_lr=lr * 256 / batch, warmup=warmup, betas=(0.9, 0.999)),
        watch=watch,
    )
    return Suggestion(run, tuple(why))

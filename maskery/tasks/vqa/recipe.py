"""How question answering is trained, from the model and the number of images.

Stated (ViLT, Kim et al. 2021, VQAv2): 10 epochs, AdamW at 1e-4, weight decay 0.01, a tenth of warm-up, batches of 256
questions. Ours: all the rest, for there is no published recipe of an encoder that only ever saw images with words from
scratch; a cosine instead of a line; batches of images, each with all that it is asked; small data.
"""

from dataclasses import replace

from ...config import OptimConfig, Run, WatchConfig
from ...recipes import Suggestion
from ..labels import LabelsConfig
from .objective import VqaConfig

LARGE = 10_000  # images from which few epochs do


def vqa(
    run: Run, images: int, *, channels: int = 3, bits: int = 8, several: bool = False, spare: bool = True
) -> Suggestion:
    """AdamW on everything, whole images, never mirrored; for fewer images longer, stopped by a part of them."""
    asked = run.settings if isinstance(run.settings, VqaConfig) else VqaConfig()
    settings = replace(asked, labels=LabelsConfig(classes=asked.labels.classes))
    watch = WatchConfig(looks=20, held_out=512, pictures=6)
    if images >= LARGE:
        epochs, batch, lr, warmup = 20.0, 64, 1e-4, 0.1
        why = [
            f"{epochs:g} epochs of batches of {batch} images with up to {asked.questions} questions each, lr {lr:g}: "
            "ours, after ViLT's 10 epochs of batches of 256 questions at 1e-4, which begins with words"
        ]
    else:
        batch = next((b for b in (16, 8) if images >= 16 * b), 4)
        epochs, lr, warmup = 40.0, 1e-3, 0.1
        why = [f"{epochs:g} epochs of batches of {batch} images, lr {lr:g}: ours for {images:,} images"]
        if spare and images >= 20:
            settings = replace(settings, labels=replace(settings.labels, tune=0.1))
            watch = replace(watch, best="tune_accuracy", patience=8)
            why.append("a tenth of the training images is kept out, and says which epoch was best and when to stop")
    why.append(f"whole images at {run.size[0]} x {run.size[1]}, never mirrored, colours as they are: questions ask")
    run = replace(
        run,
        settings=settings,
        method="vqa",
        epochs=epochs,
        steps=None,
        batch_size=batch,
        optim=OptimConfig(base_lr=lr * 256 / batch, warmup=warmup, betas=(0.9, 0.98), weight_decay=0.01, clip_grad=1.0),
        watch=watch,
    )
    return Suggestion(run, tuple(why))

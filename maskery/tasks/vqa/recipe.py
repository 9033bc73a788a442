"""How question answering is trained, from the number of images.

Stated (ViLT, Kim et al. 2021, VQAv2): 10 epochs, AdamW at 1e-4, weight decay 0.01, a tenth of warm-up, batches of 256
questions. Ours: all the rest, for there is no published recipe of an encoder that only ever saw images with words from
scratch; a cosine instead of a line; batches of images, each with all its questions; small data.
"""

from dataclasses import replace

from ...config import Run, WatchConfig
from ...suggest import Suggestion
from ..small_data import FEWEST_DIVIDED, LabelledData, adamw, known_labels, size_text, small_batch, suggested

LARGE = 10_000  # images for which few epochs are enough


def vqa_recipe(run: Run, data: LabelledData) -> Suggestion:
    """AdamW on everything, whole images, never mirrored; for few images more epochs, with early stopping."""
    large, settings = data.images >= LARGE, replace(run.settings, labels=known_labels(run))
    epochs, batch, lr = (20.0, 64, 1e-4) if large else (40.0, small_batch(data.images), 1e-3)
    length = f"{epochs:g} epochs of batches of {batch} images"
    why = [f"{length}, lr {lr:g}: ours for {data.images:,} images"]
    if large:
        why = [
            f"{length} with up to {settings.questions} questions each, lr {lr:g}: ours, after ViLT's 10 epochs of "
            "batches of 256 questions at 1e-4, which begins with words"
        ]
    why.append(f"whole images at {size_text(run)}, never mirrored, colours as they are: questions ask for both")
    optim = adamw(lr, batch, warmup=0.1, betas=(0.9, 0.98), weight_decay=0.01, clip_grad=1.0)
    run = replace(run, settings=settings, method="vqa", epochs=epochs, steps=None, batch_size=batch, optim=optim)
    run = replace(run, watch=WatchConfig(looks=20, held_out=512, pictures=6))
    return suggested(run, why, "accuracy" if not large and data.divisible and data.images >= FEWEST_DIVIDED else None)

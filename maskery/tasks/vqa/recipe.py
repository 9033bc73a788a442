"""How question answering is trained, from the number of images.

Stated (ViLT, Kim et al. 2021, VQAv2): 10 epochs, AdamW at 1e-4, weight decay 0.01, a tenth of warm-up, batches of 256
questions. Ours: all the rest, for there is no published recipe of an encoder that only ever saw images with words from
scratch; a cosine instead of a line; batches of images, each with all its questions; small data.
"""

from dataclasses import replace

from ...config import Run, WatchConfig
from ...suggest import Suggestion
from ..small_data import EARLY_STOPPING, LabelledData, adamw, known_labels, small_batch, stopped_early

LARGE = 10_000  # images for which few epochs are enough
FEWEST_DIVIDED = 20  # images below which none are held out for validation


def vqa_recipe(run: Run, data: LabelledData) -> Suggestion:
    """AdamW on everything, whole images, never mirrored; for few images more epochs, with early stopping."""
    settings = replace(run.settings, labels=known_labels(run))
    watch = WatchConfig(looks=20, held_out=512, pictures=6)
    run = replace(run, settings=settings, method="vqa", steps=None, watch=watch)
    large = data.images >= LARGE
    epochs, batch, lr = (20.0, 64, 1e-4) if large else (40.0, small_batch(data.images), 1e-3)
    if large:
        why = [
            f"{epochs:g} epochs of batches of {batch} images with up to {settings.questions} questions each, lr "
            f"{lr:g}: ours, after ViLT's 10 epochs of batches of 256 questions at 1e-4, which begins with words"
        ]
    else:
        why = [f"{epochs:g} epochs of batches of {batch} images, lr {lr:g}: ours for {data.images:,} images"]
        if data.divisible and data.images >= FEWEST_DIVIDED:
            run = stopped_early(run, "accuracy")
            why.append(EARLY_STOPPING)
    size = f"{run.size[0]} x {run.size[1]}"
    why.append(f"whole images at {size}, never mirrored, colours as they are: questions are about sides and colours")
    optim = adamw(lr, batch, warmup=0.1, betas=(0.9, 0.98), weight_decay=0.01, clip_grad=1.0)
    return Suggestion(replace(run, epochs=epochs, batch_size=batch, optim=optim), tuple(why))

"""How a probe and a fine-tuned classifier are trained: MAE's recipes, and ours for smaller data.

Stated (He et al. 2022, tables 9 and 10, and the reference code's FINETUNE.md): everything about ViT-B, L and H on
ImageNet. Ours: smaller models, smaller data, batches for them, early stopping.
"""

from dataclasses import replace

from ...config import OptimConfig, Run, WatchConfig
from ...data.crops import Crop
from ...evals.classify import headline
from ...suggest import Suggestion
from ..labels import LabelsConfig
from ..small_data import LabelledData, suggested
from .finetune import FinetuneConfig
from .probe import ProbeConfig

SMALL = 50_000  # images below which a tenth of them decides when training stops
LARS_NEEDS = 500_000  # images from which MAE's linear probe is taken as it is
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of SGD, times the learning rate
INDIVISIBLE = "no class has a second image that could be held out for validation"
CROP = Crop(scale=(0.08, 1.0))
LARGE = {"vit-large": (50, 1e-3, 0.75, 0.2), "vit-huge": (50, 1e-3, 0.75, 0.3)}
BASE = (100, 5e-4, 0.65, 0.1)  # of vit-base: epochs, base lr, layer decay, drop path


def probe_recipe(run: Run, data: LabelledData) -> Suggestion:
    """MAE's linear probe: LARS, 90 epochs, base lr 0.1 per 256 images, no weight decay, no augmentation but crops.

    A step of LARS moves the head by lr x 0.001 of its size: 225 times its size in 90 epochs of MAE's million images,
    twice in those of ten thousand. For fewer images it is SGD at several learning rates.
    """
    eval_share, reasons = centre_crop(run)
    settings, large = ProbeConfig(eval_share=eval_share), data.images >= LARS_NEEDS
    batch = 16384 if large else batch_size(data.images, steps=16)
    if large:
        why = ["MAE's protocol: LARS, batch 16384, base lr 0.1, 90 epochs"]
    elif data.divisible:
        settings = replace(settings, lrs=RATES, labels=LabelsConfig(tune=0.1))
        why = [
            f"SGD, batch {batch}, {len(RATES)} learning rates side by side: LARS as MAE has it hardly moves in 90 "
            f"epochs of {data.images:,} images (--optim.name lars --settings.lrs 1 has it all the same)",
            "a tenth of the training images is held out, and says which learning rate is reported",
        ]
    else:
        why = [f"SGD, batch {batch}: {INDIVISIBLE}"]
    optim = OptimConfig("lars" if large else "sgd", base_lr=0.1, warmup=10 / 90, weight_decay=0.0)
    run = replace(run, settings=settings, method="probe", epochs=90.0, batch_size=batch, crop=CROP, optim=optim)
    return Suggestion(run, (*why, *reasons))


def finetune_recipe(run: Run, data: LabelledData) -> Suggestion:
    """MAE's fine-tuning: AdamW, layer decay, drop path, RandAugment, mixup and cutmix, erasing, smoothing."""
    epochs, lr, decay, drop = LARGE.get(run.model, BASE)
    published = run.model in ("vit-base", *LARGE)
    decay = 0.75 if run.model == "vit-micro" else decay
    whose = f"MAE's for {run.model}" if published else f"ours for {run.model}, after MAE's for vit-base"
    why = [f"{epochs} epochs, layer decay {decay}, drop path {drop}: {whose}"]
    batch = batch_size(data.images, steps=64)
    if batch < 1024:
        lr = 1e-3
        why.append(f"batch {batch}, base lr {lr:g}: ours for {data.images:,} images (MAE's batch is 1024)")
    eval_share, reasons = centre_crop(run)
    settings = FinetuneConfig(layer_decay=decay, drop_path=drop, eval_share=eval_share)
    if data.channels not in (1, 3) or data.bits != 8:
        settings = replace(settings, augment=None)
        why.append(f"no RandAugment: it is not defined for {data.channels} channels of {data.bits} bits")
    optim = OptimConfig(base_lr=lr, min_lr=1e-6, warmup=5 / epochs, betas=(0.9, 0.999))
    run = replace(run, settings=settings, method="finetune", epochs=float(epochs), batch_size=batch)
    run = replace(run, crop=CROP, optim=optim, watch=WatchConfig(looks=20))
    if data.images < SMALL and not data.divisible:
        why.append(INDIVISIBLE)
    stopped = data.images < SMALL and data.divisible
    return suggested(run, [*why, *reasons], headline(data.multilabel) if stopped else None)


def batch_size(images: int, steps: int) -> int:
    """A power of two, 16 to 1024, that gives so many steps an epoch or more where that is possible."""
    return next((batch for batch in (1024, 512, 256, 128, 64, 32) if images / batch >= steps), 16)


def centre_crop(run: Run) -> tuple[float, tuple[str, ...]]:
    """The fraction of the resized image that the centre crop keeps: 224 of 256, and all of small images."""
    if min(run.size) >= 128:
        return 0.875, ()
    return 1.0, ("evaluation on the whole centre: MAE's cut, 224 of 256, is for larger images",)

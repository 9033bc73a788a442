"""How a task is trained, from the model and the number of labelled images: MAE's recipes, and ours for smaller data.

`several`: an image may have several labels. `spare`: some class has images that can be kept out to choose by.

Stated (He et al. 2022, tables 9 and 10, and the reference code's FINETUNE.md): everything about ViT-B, L and H on
ImageNet. Ours: smaller models, smaller data, batches for them, the part that training is stopped by.
"""

from dataclasses import replace

from ..config import OptimConfig, Run, WatchConfig
from ..data.crops import Crop
from ..evals.classify import headline
from ..recipes import Suggestion
from .classification.finetune import FinetuneConfig
from .classification.probe import ProbeConfig
from .detection.recipe import detect
from .labels import LabelsConfig
from .segmentation.recipe import segment
from .vqa.recipe import vqa

SMALL = 50_000  # images below which training is stopped by a tenth of them
LARS_NEEDS = 500_000  # images from which MAE's linear probe is taken as it is
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of SGD, times the learning rate
NOTHING_SPARE = "no class has a second image that could be kept out to choose by"
CROP = Crop(scale=(0.08, 1.0))
LARGE = {
    "vit-large": (50, 1e-3, 0.75, 0.2),
    "vit-huge": (50, 1e-3, 0.75, 0.3),
}  # epochs, base lr, layer decay, drop path
USUAL = (100, 5e-4, 0.65, 0.1)  # of vit-base


def probe(
    run: Run, images: int, *, channels: int = 3, bits: int = 8, several: bool = False, spare: bool = True
) -> Suggestion:
    """MAE's linear probe: LARS, 90 epochs, base lr 0.1 per 256 images, no weight decay, no augmentation but crops.

    A step of LARS moves the head by lr x 0.001 of its size: in 90 epochs of MAE's million images it goes 225 times its
    own size, in those of ten thousand images twice. For fewer images it is SGD at several learning rates.
    """
    share, said = eval_share(run)
    settings = ProbeConfig(eval_share=share)
    if images >= LARS_NEEDS:
        batch, optim = 16384, OptimConfig("lars", base_lr=0.1, warmup=10 / 90, weight_decay=0.0)
        why = ["MAE's protocol: LARS, batch 16384, base lr 0.1, 90 epochs"]
    else:
        batch = batch_for(images, 1024, steps=16)
        optim = OptimConfig("sgd", base_lr=0.1, warmup=10 / 90, weight_decay=0.0)
        why = [f"SGD, batch {batch}: {NOTHING_SPARE}"]
    if images < LARS_NEEDS and spare:
        settings = replace(settings, lrs=RATES, labels=LabelsConfig(tune=0.1))
        why = [
            f"SGD, batch {batch}, {len(RATES)} learning rates side by side: LARS as MAE has it hardly moves in 90 "
            f"epochs of {images:,} images (--optim.name lars --settings.lrs 1 has it all the same)",
            "a tenth of the training images is kept out, and says which learning rate is reported",
        ]
    run = replace(run, settings=settings, method="probe", epochs=90.0, batch_size=batch, crop=CROP, optim=optim)
    return Suggestion(run, (*why, *said))


def finetune(
    run: Run, images: int, *, channels: int = 3, bits: int = 8, several: bool = False, spare: bool = True
) -> Suggestion:
    """MAE's fine-tuning: AdamW, layer decay, drop path, RandAugment, mixup and cutmix, erasing, smoothing."""
    epochs, lr, decay, drop = LARGE.get(run.model, USUAL)
    batch = batch_for(images, 1024, steps=64)
    why = [f"{epochs} epochs, layer decay {decay}, drop path {drop}: MAE's for {run.model}"]
    if run.model not in ("vit-base", *LARGE):
        decay = 0.75 if run.model == "vit-micro" else decay
        why = [
            f"{epochs} epochs, layer decay {decay}, drop path {drop}: ours for {run.model}, after MAE's for vit-base"
        ]
    if batch < 1024:
        lr = 1e-3
        why.append(f"batch {batch}, base lr {lr:g}: ours for {images:,} images (MAE's batch is 1024)")
    share, said = eval_share(run)
    settings = FinetuneConfig(layer_decay=decay, drop_path=drop, eval_share=share)
    if channels not in (1, 3) or bits != 8:
        settings = replace(settings, augment=None)
        why.append(f"no RandAugment: it is not defined for {channels} channels of {bits} bits")
    watch = WatchConfig(looks=20)
    if images < SMALL and not spare:
        why.append(NOTHING_SPARE)
    elif images < SMALL:
        settings = replace(settings, labels=LabelsConfig(tune=0.1))
        watch = replace(watch, best=f"tune_{headline(several)}", patience=8)
        why.append("a tenth of the training images is kept out, and says which epoch was best and when to stop")
    run = replace(
        run,
        settings=settings,
        method="finetune",
        epochs=float(epochs),
        batch_size=batch,
        crop=CROP,
        optim=OptimConfig(base_lr=lr, min_lr=1e-6, warmup=5 / epochs, betas=(0.9, 0.999)),
        watch=watch,
    )
    return Suggestion(run, (*why, *said))


RECIPES = {"probe": probe, "finetune": finetune, "segment": segment, "detect": detect, "vqa": vqa}


def batch_for(images: int, most: int, steps: int) -> int:
    """A power of two that gives so many steps an epoch or more, where that leaves 16 images."""
    batch = most
    while batch > 16 and images / batch < steps:
        batch //= 2
    return batch


def eval_share(run: Run) -> tuple[float, tuple[str, ...]]:
    """What the evaluation's centre crop keeps: 224 of 256, and all of small images."""
    if min(run.size) >= 128:
        return 0.875, ()
    return 1.0, ("evaluation on the whole centre: MAE's cut, 224 of 256, is for larger images",)

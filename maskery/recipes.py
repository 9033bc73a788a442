"""Runs with a name, and the run that suits somebody's data. A recipe is a function of no arguments."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

from .config import OptimConfig, Run
from .methods import METHODS
from .nn.decoder import DecoderSize

DECODERS = {  # the paper's for B, L and H (512 x 8); S and Ti as in the RC-MAE code; micro is ours
    "vit-micro": DecoderSize(64, 1, 4),
    "vit-tiny": DecoderSize(128, 2, 4),
    "vit-small": DecoderSize(256, 4, 8),
    "vit-base": DecoderSize(512, 8, 16),
    "vit-large": DecoderSize(512, 8, 16),
    "vit-huge": DecoderSize(512, 8, 16),
}


def mae_base() -> Run:
    """MAE ViT-B/16 on ImageNet-1k, 1600 epochs at batch 4096 (He et al. 2022, table 8 and the reference code).

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe mae-base --data imagenet/train --out RUN
    Hardware:  the authors used 64 V100 (8 nodes); on fewer GPUs the batch is cut into micro-batches that fit
    Expected:  fine-tuned 83.6 %, linear probe 68.0 % (table 3, section 4.2)
    Ours:      not run
    """
    return Run(
        settings=METHODS["mae"].Config(),
        method="mae",
        model="vit-base",
        epochs=1600.0,
        batch_size=4096,
        optim=OptimConfig(warmup=40 / 1600),
    )


def mae_large() -> Run:
    """MAE ViT-L/16 on ImageNet-1k, 1600 epochs at batch 4096 (He et al. 2022, table 8 and the reference code).

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe mae-large --data imagenet/train --out RUN
    Hardware:  the authors used 64 V100 or 128 TPU-v3 cores
    Expected:  fine-tuned 85.9 %, linear probe 75.8 %
    Ours:      not run
    """
    return replace(mae_base(), model="vit-large")


def mae_huge() -> Run:
    """MAE ViT-H/14 on ImageNet-1k, 1600 epochs at batch 4096 (He et al. 2022, table 8 and the reference code).

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe mae-huge --data imagenet/train --out RUN
    Hardware:  as for ViT-L, with more memory per image
    Expected:  fine-tuned 86.9 %, linear probe 76.6 %
    Ours:      not run
    """
    return replace(mae_base(), model="vit-huge", patch_size=14)


def rc_mae_base() -> Run:
    """RC-MAE ViT-B/16 on ImageNet-1k, MAE's recipe (Lee et al. 2023, section 4 and the reference code).

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe rc-mae-base --data imagenet/train --out RUN
    Hardware:  4/3 of MAE's operations and one more copy of the weights
    Expected:  fine-tuned 83.6 %, linear probe 68.4 % (the authors' MAE: 83.4 %, 67.3 %); 800 epochs 83.4 %
    Ours:      not run
    """
    return replace(mae_base(), method="rc-mae", settings=METHODS["rc-mae"].Config())


def mixed_ae_base() -> Run:
    """MixedAE ViT-B/16 on ImageNet-1k, 1600 epochs (Chen et al. 2023, abstract and table of results).

    What the paper does not state in what we could read follows MAE's recipe.
    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe mixed-ae-base --data imagenet/train --out RUN
    Hardware:  about MAE's operations
    Expected:  fine-tuned 83.9 %; 800 epochs 83.5 %, 300 epochs 83.1 % (MAE 83.6, 83.3, 82.7 %)
    Ours:      not run
    """
    return replace(mae_base(), method="mixed-ae", settings=METHODS["mixed-ae"].Config())


def msa_base() -> Run:
    """MSA ViT-B/16 on ImageNet-1k (Zhu et al. 2025). The paper's recipe was not available: MAE's, at 800 epochs.

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe msa-base --data imagenet/train --out RUN
    Hardware:  1.76 of MAE's operations, one more copy of the encoder
    Expected:  linear probe 6.1 points above MAE's
    Ours:      not run
    """
    return replace(
        mae_base(), method="msa", settings=METHODS["msa"].Config(), epochs=800.0, optim=OptimConfig(warmup=40 / 800)
    )


def cmt_mae_base() -> Run:
    """CMT-MAE ViT-B/16 on ImageNet-1k with a CLIP ViT-B/16 (Mo 2025). The recipe was not available: MAE's, 800 epochs.

    Command:   torchrun --nproc-per-node 8 -m maskery pretrain --recipe cmt-mae-base --data imagenet/train --out RUN
    Hardware:  2.2 of MAE's operations; the teacher's weights come from the hub
    Expected:  fine-tuned 85.7 % (MAE 83.6 %)
    Ours:      not run
    """
    run = replace(mae_base(), method="cmt-mae", settings=METHODS["cmt-mae"].Config())
    return replace(run, epochs=800.0, optim=OptimConfig(warmup=40 / 800))


RECIPES: dict[str, Callable[[], Run]] = {
    "mae-base": mae_base,
    "mae-large": mae_large,
    "mae-huge": mae_huge,
    "rc-mae-base": rc_mae_base,
    "mixed-ae-base": mixed_ae_base,
    "msa-base": msa_base,
    "cmt-mae-base": cmt_mae_base,
}


@dataclass(frozen=True)
class Suggestion:
    run: Run
    reasons: tuple[str, ...]  # one sentence a choice


def suggest(
    images: int,
    height: int,
    width: int,
    device: Literal["cpu", "cuda"] = "cuda",
    *,
    method: str = "mae",
    model: str | None = None,
    patch_size: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> Suggestion:
    """The run for so many training images of a typical height and width (pixels), as far as the user has not chosen.

    These rules are ours: the papers only have recipes for a million images. Pure: the same numbers, the same run.
    """
    why: list[str] = []
    cpu, side = device == "cpu", min(height, width)

    if image_size is None:
        image_size = max(16, min(64 if cpu else 224, side // 16 * 16)) if side < 224 or cpu else 224
        because = (
            "what a CPU can do" if cpu and side > 64 else "the papers' size" if side >= 224 else "as the images are"
        )
        why.append(f"image size {image_size}: the images are {height} x {width}; {because}")
    edge = min(image_size) if isinstance(image_size, tuple) else image_size

    if patch_size is None:
        dividing = [p for p in (4, 8, 16) if edge % p == 0 and edge // p >= 4] or [4 if edge % 4 == 0 else 1]
        fine = [p for p in dividing if edge // p <= 16] or dividing[-1:]
        coarse = [p for p in dividing if edge // p >= 8] or dividing[:1]
        patch_size = coarse[-1] if cpu else fine[0]
        grid = edge // patch_size
        why.append(f"patch size {patch_size}: a grid of {grid} patches a side, {grid * grid} a square image")

    if model is None:
        if cpu:
            model, because = "vit-micro", "the largest that learns something on a CPU within minutes"
        else:
            steps = [(3_000, "vit-tiny"), (100_000, "vit-small"), (5_000_000, "vit-base")]
            model = next((m for limit, m in steps if images < limit), "vit-large")
            because = f"a fair match for {images:,} images"
        why.append(f"model {model}: {because}")

    if batch_size is None:
        wanted = 64 if cpu else 256 if images < 20_000 else 512 if images < 100_000 else 1024
        wanted = 4096 if images >= 1_000_000 and not cpu else wanted
        batch_size = wanted
        while batch_size > 8 and images / batch_size < 8:
            batch_size //= 2
        why.append(
            f"batch {batch_size}: " + ("eight steps an epoch" if batch_size < wanted else "for this many images")
        )

    if images >= 1_000_000 and not cpu:  # 800 passes over ImageNet's 1,281,167: after that other images teach more
        seen, low, high = 800 * 1_281_167, 1, 800
    else:
        seen, low, high = (400_000, 5, 400) if cpu else (40_000 * batch_size, 400, 4000)
    epochs = min(max(round(seen / max(images, 1)), low), high)
    why.append(f"{epochs} epochs: {epochs * images / batch_size:,.0f} steps; fewer images need more passes")

    if model == "vit-micro":
        base_lr = 2.5e-3 * 256 / batch_size
        why.append(f"base lr {base_lr:.2g}, 5 % warm-up: lr 2.5e-3, which a narrow network bears and a short run needs")
    else:  # with Adam the learning rate goes with the square root of the batch, from the paper's 2.4e-3 at 4096
        base_lr = 1.5e-4 * (4096 / batch_size) ** 0.5
        why.append(f"base lr {base_lr:.2g}, 5 % warm-up: the paper's 1.5e-4 at batch 4096, square-root scaled")

    settings = METHODS[method].Config()
    if "decoder" in {f.name for f in fields(settings)}:  # not every method has one
        decoder = DECODERS.get(model, DecoderSize())
        settings = replace(settings, decoder=decoder)
        why.append(f"decoder {decoder.dim} wide, {decoder.depth} blocks: goes with {model}")
    if images < 10_000:
        why.append(f"note: {images:,} images are few; compare with ImageNet weights before you rely on your own")

    run = Run(
        settings=settings,
        method=method,
        model=model,
        patch_size=patch_size,
        image_size=image_size,
        epochs=float(epochs),
        batch_size=batch_size,
        optim=OptimConfig(base_lr=float(f"{base_lr:.2g}")),
    )
    return Suggestion(run, tuple(why))

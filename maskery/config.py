"""A run as one tree of frozen dataclasses: a recipe or a saved file gives it, options replace leaves, that is all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .data.crops import Crop
from .nn.vit import SIZES, ViTConfig


@dataclass(frozen=True)
class ImagesConfig:
    """Which images are read, and how."""

    channels: int | None = None  # None: 1 when every image is grey, else 3, or what multi-band files have
    bits: Literal[8, 16] | None = None  # None: 16 when some image has 16 bits a channel
    pages: Literal["first", "channels"] = "first"  # of a multi-page TIFF: the first one, or all as channels
    mean: tuple[float, ...] | None = None  # per channel, in [0, 1]; None: ImageNet's for 8-bit RGB, else measured
    std: tuple[float, ...] | None = None  # likewise
    labels: bool = True  # use labels where the data have them (for evaluation only, never for pretraining)
    masks: bool = False  # every image has a mask, one class for each pixel; masks are not read as images
    objects: bool = False  # read COCO's json: images with boxes and perhaps masks of objects
    questions: bool = False  # read VQAv2's json: images with questions
    train_json: str | None = None  # COCO's annotations or VQAv2's questions, below the data; None: the usual names
    val_json: str | None = None  # likewise
    test_json: str | None = None  # VQAv2's questions without answers
    image_column: str | None = None  # of a table; None: the usual names are tried
    label_column: str | None = None
    split_column: str | None = None
    mask_column: str | None = None
    holdout: float = 0.05  # fraction held out, by a hash of the name; a "val" or "test" split takes its place
    unreadable: float = 0.05  # stop when more than this fraction of the images cannot be read
    memory: float = 8.0  # GB of this machine's memory for decoded images, at most half of it; 0: none
    cache: float = 50.0  # GB of local disk for what is downloaded from a URL
    workers: int | None = None  # loader processes per GPU or process; None: chosen from the machine


DEFAULT_IMAGES = ImagesConfig()  # how images are read unless options say otherwise


@dataclass(frozen=True)
class OptimConfig:
    """AdamW as in MAE, or the optimiser of a supervised task."""

    name: Literal["adamw", "lars", "sgd"] = "adamw"
    base_lr: float = 1.5e-4  # per 256 images of the global batch: lr = base_lr * batch_size / 256
    min_lr: float = 0.0  # where the cosine ends
    warmup: float = 0.05  # fraction of the run with a rising learning rate
    weight_decay: float = 0.05  # not for biases and one-dimensional parameters
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    momentum: float = 0.9  # of LARS and SGD
    clip_grad: float | None = None  # largest norm of the gradient; None: no clipping


@dataclass(frozen=True)
class WatchConfig:
    """Logging and periodic evaluation."""

    log_every: int = 20  # steps between two lines of metrics.jsonl
    looks: int = 10  # periodic evaluations (pictures, held-out loss, kNN) after the one before the first step; 0: none
    pictures: int = 8  # held-out images in a strip
    held_out: int = 1024  # images for the held-out loss, at most
    knn_bank: int = 5000  # training images that vote, at most; 0: no kNN
    knn_queries: int = 2000  # held-out images that are classified, at most
    best: str | None = None  # an evaluation's metric, larger is better: the checkpoint where it was best is kept
    patience: int | None = None  # evaluations without improvement after which the run ends


@dataclass(frozen=True)
class SaveConfig:
    """When checkpoints are written. One is always written at the end, and when a signal stops the run."""

    minutes: float = 10.0  # between two checkpoints, checked on log lines
    every: int | None = None  # steps between two checkpoints instead
    keep: int = 2  # the newest ones to keep; 0: all


@dataclass(frozen=True)
class LogConfig:
    """Where metrics go beside metrics.jsonl and TensorBoard. No keys or passwords: those are in the environment."""

    wandb: str | None = None  # project of Weights & Biases, or ENTITY/PROJECT; WANDB_MODE=offline keeps it here
    mlflow: str | None = None  # directory or address of an MLflow tracking server
    experiment: str = "maskery"  # of MLflow


@dataclass(frozen=True)
class Run:
    """The configuration of a run."""

    settings: Any  # the method's own Config
    data: str = ""  # folder of images, list (.txt, .csv) or table (.parquet, .arrow)
    method: str = "mae"
    model: str = "vit-small"  # `maskery list models`
    patch_size: int = 16  # in pixels
    image_size: int | tuple[int, int] = 224  # of the network's input in pixels: a square, or height and width
    epochs: float | None = None  # passes over the training images; or give steps
    steps: int | None = None  # optimiser steps; takes precedence over epochs
    batch_size: int = 4096  # images per optimiser step, over all processes
    micro_batch: int | Literal["auto"] = "auto"  # images per forward and process, at most; auto: the most that fit
    seed: int = 0  # of weights, order, crops and masks
    init: str | None = None  # weights to start from: a run, directory, file or timm:NAME (resuming is `maskery resume`)
    shard: bool = False  # shard the parameters over the processes (FSDP2), for models too large for one GPU
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where the GPU has it, float32 on CPU
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: on GPU
    recompute: bool = False  # activation checkpointing: one more forward, and a fraction of the memory for activations
    images: ImagesConfig = field(default_factory=ImagesConfig)
    crop: Crop = field(default_factory=Crop)
    optim: OptimConfig = field(default_factory=OptimConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def lr(self) -> float:
        """The highest learning rate: `base_lr` counts per 256 images."""
        return self.optim.base_lr * self.batch_size / 256

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole run over so many training images."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 0) * images / self.batch_size))

    def vit(self) -> ViTConfig:
        """The network of this run. ValueError when its parts do not fit; `images.mean` and `.std` have to be known."""
        size = SIZES[self.model]
        mean, std = self.images.mean, self.images.std
        assert mean is not None
        assert std is not None
        return ViTConfig(size.dim, size.depth, size.heads, self.patch_size, self.size, mean, std)


def dump(run: Run) -> str:
    """The text of config.yaml; `read` and `pretrain --config` take it back."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return yaml.safe_dump(plain(asdict(run)), sort_keys=False, width=120)


def read(path: Path) -> dict[str, Any]:
    """The tree in a YAML file. ValueError in one line when it is not one."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
        mark = getattr(e, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise ValueError(f"{path}: damaged{where}: {reason}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: damaged: it holds no settings")
    return tree


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"base_lr": 1}} -> {"optim.base_lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat

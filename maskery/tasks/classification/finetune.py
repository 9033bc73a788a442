"""Fine-tuning for classification (He et al. 2022, appendix A.1, table 9; MAE's reference code, main_finetune).

f        the encoder without its last norm, all of it trained, positions too          [B, 1 + N, D]
z        a fresh norm of the mean patch token (or the encoder's own of the class token)  [B, D]
W, b     the classifier                                                              [M, D], [M]
x~, y~   images and labels after RandAugment, erasing, mixup or cutmix, smoothing    [B, C, H, W], [B, M]

    L = cross entropy(W z(x~) + b, y~);   binary cross entropy with several labels an image

Stated: layer decay, drop path, RandAugment(9, 0.5), mixup 0.8, cutmix 1.0, smoothing 0.1, epochs and learning rates of
B, L and H (`recipes.py`), the mean patch token. From the code: erasing with probability 0.25, trainable positions, the
head's initial weights (std 2e-5), a quarter of RandAugment's details (timm's "rand-m9-mstd0.5-inc1").
Assumed: everything about smaller models and smaller data, the average of weights, balanced classes.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.augment import seeded
from ...nn.linear_classifier import LinearClassifier, Pool
from ...nn.teacher import Ema
from ...nn.vit import ViT, ViTConfig, drop_paths
from ...objective import Batch, Losses
from ..labels import LabelsConfig
from ..supervision import ABOVE_0, BELOW_1, check_range, supervised_encoder
from .objective import ClassificationObjective, label_loss


@dataclass(frozen=True)
class FinetuneConfig:
    pooling: Literal["mean_patch", "class_token"] = "mean_patch"
    layer_decay: float = 0.65  # of the learning rate, from each block to the one before it (B: 0.65, L and H: 0.75)
    drop_path: float = 0.1  # in the last block, linearly less before it (B: 0.1, L: 0.2, H: 0.3)
    augment: str | None = "rand-m9-mstd0.5-inc1"  # timm's name of a policy; for 8-bit grey or RGB
    erasing: float = 0.25  # probability that a rectangle of an image is replaced by noise
    mixup: float = 0.8  # alpha; 0: no mixup
    cutmix: float = 1.0  # alpha; 0: no cutmix
    smoothing: float = 0.1  # of labels
    average: float = 0.0  # momentum of an average of the weights, which is then evaluated and kept too; 0: none
    eval_share: float = 0.875  # of the resized image the evaluation's centre crop keeps: 256 -> 224
    labels: LabelsConfig = field(default_factory=LabelsConfig)


class Finetune(ClassificationObjective):
    Config = FinetuneConfig
    config: FinetuneConfig
    encoders = ("encoder.", "average.net.0.")  # the average begins as what is trained does

    def __init__(self, config: FinetuneConfig, vit: ViTConfig):
        super().__init__()
        self.config, self.augment, self.layer_decay = config, config.augment, config.layer_decay
        note = "; at 0 nothing but the head would learn, and `maskery eval probe` does that"
        check_range(config, "layer_decay", low=ABOVE_0, high=1, note=note)
        check_range(config, "erasing", high=1)
        check_range(config, "drop_path", "smoothing", "average", high=BELOW_1)
        check_range(config, "mixup", "cutmix", note=" (0: without)")
        self.encoder = supervised_encoder(vit)  # f
        if config.pooling == "mean_patch":
            self.encoder.norm.requires_grad_(False)  # not part of it
        self.norm = nn.LayerNorm(vit.dim, eps=1e-6) if config.pooling == "mean_patch" else nn.Identity()
        self.head = nn.Linear(vit.dim, self.labels.count)  # W, b
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)
        self.micro_batch_multiple = 2 if self.mixes else 1
        self.average = Ema(self.parts()) if config.average else None

    @property
    def mixes(self) -> bool:
        return self.config.mixup > 0 or self.config.cutmix > 0

    def parts(self) -> nn.ModuleList:
        return nn.ModuleList([self.encoder, self.norm, self.head])

    def sample(self, batch: Batch, t: float) -> Batch:
        image, y = batch["image"], self.label_of(batch)
        if not self.training:
            return {"image": image, "y": y}
        with seeded(int(torch.randint(2**31, ()))):
            batch = {"image": self.erased(image), "y": smoothed(y, self.labels, self.config.smoothing)}
            batch = self.mixed(batch) if self.mixes else batch
        if self.config.drop_path:
            batch["paths"] = drop_paths(len(image), len(self.encoder.blocks), self.config.drop_path, image.device)
        return batch

    def erased(self, image: Tensor) -> Tensor:
        """Some images with a rectangle of noise, as large as that of normalised images."""
        from timm.data.random_erasing import RandomErasing  # timm takes seconds to import

        if not self.config.erasing:
            return image
        erase = RandomErasing(self.config.erasing, mode="pixel", max_count=1, device=str(image.device))
        return self.encoder.denormalise(erase(self.encoder.normalise(image)))

    def mixed(self, batch: Batch) -> Batch:
        """Every image mixed with the one as far from the other end of the batch, by mixup or cutmix."""
        from timm.data.mixup import Mixup

        image, y = batch["image"], batch["y"]
        B = len(image)
        mix = Mixup(self.config.mixup, self.config.cutmix, label_smoothing=0.0, num_classes=B)
        # Asked for whose image is in whose place, it says how much of each image is where: labels of any kind follow.
        image, share = mix(image.clone(), torch.arange(B, device=image.device))
        with torch.autocast(image.device.type, enabled=False):  # shares of labels are not rounded to 8 bits
            return {"image": image, "y": share @ y}

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "y" in batch else self.sample(batch, t)
        logits = self.logits(self.encoder, self.norm, self.head, batch["image"], batch.get("paths"))
        return {"loss": label_loss(logits, batch["y"], self.labels)}

    def logits(self, f: ViT, norm: nn.Module, head: nn.Module, image: Tensor, paths: Tensor | None = None) -> Tensor:
        """[B, M] in float32."""
        tokens = f.trunk(f.normalise(image), paths)
        z = norm(tokens[:, 1:].mean(1)) if self.config.pooling == "mean_patch" else f.norm(tokens[:, 0])
        return head(z).float()

    def classify(self, image: Tensor) -> Tensor:
        f, norm, head = self.average.net if self.average is not None else self.parts()
        assert isinstance(f, ViT)
        return self.logits(f, norm, head, image)[:, None]

    def linear_classifier(self, head: int = 0) -> LinearClassifier:
        net = deepcopy(self.average.net if self.average is not None else self.parts())
        f, norm, linear = net
        assert isinstance(f, ViT)
        assert isinstance(linear, nn.Linear)
        if isinstance(norm, nn.LayerNorm):
            f.norm = norm  # in front of the classifier; the encoder's own is not part of it
        return LinearClassifier(f, Pool(self.config.pooling, self.config.pooling == "mean_patch"), linear).eval()

    def after_step(self, t: float) -> None:
        if self.average is not None:
            self.average.update(self.parts(), self.config.average)

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image = batch["image"]
        self.train()
        trained_on = self.sample({"image": image}, 0.0)["image"]
        self.eval()
        return {"image": image, "as trained on": trained_on.clamp(0, 1)}


def smoothed(y: Tensor, config: LabelsConfig, smoothing: float) -> Tensor:
    """Class numbers [B], or 0 and 1 [B, M], as shares [B, M]: evenly smoothed, or towards a half."""
    if config.several:
        return y * (1 - smoothing) + smoothing / 2
    return F.one_hot(y, config.count) * (1 - smoothing) + smoothing / config.count

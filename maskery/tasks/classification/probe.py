"""Linear probing: a linear classifier on frozen features (He et al. 2022, appendix A.1; its code, main_linprobe).

f       the encoder, frozen, in eval mode
h       features of an image, by default f's class token after its last norm       [B, D]
h_n     batch-normalised h without affine parameters: mean and variance over the
        batches of all processes (running averages in evaluation)                  [B, D]
W, b    the classifier; several, each with its own learning rate, see the same h_n [M, D], [M]

    L = sum over heads of cross entropy(W h_n + b, y)

Stated: class token, BatchNorm without affine parameters, LARS without weight decay, 90 epochs of batch 16384 with 10 of
warm-up, base lr 0.1 per 256 images, crops of at least 8 % of the area (MAE's code), flips, no other augmentation.
Assumed: the head's initial weights (std 0.01) and eps 1e-6 are the code's, not the paper's. Mean patch tokens, other
blocks, several learning rates and the attentive probe are not MAE's protocol.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.linear_classifier import LinearClassifier, Pool, pooled
from ...nn.vit import ViT, ViTConfig
from ...objective import Batch, Losses
from ...pictures.reconstruction import overlay
from ..labels import LabelsConfig
from ..supervision import EPS, in_chunks
from .objective import ClassificationObjective, label_loss

ProbePooling = Literal["class_token", "mean_patch", "both", "attentive"]


@dataclass(frozen=True)
class ProbeConfig:
    pooling: ProbePooling = "class_token"  # what is probed; attentive: a learned query attends to all tokens
    layer: int | None = None  # tokens after this block, the first is 1; None: the last
    blocks: int = 1  # tokens of so many blocks up to that one, concatenated
    lrs: tuple[float, ...] = (1.0,)  # a head for each: what the learning rate is multiplied by
    heads: int = 8  # of the attentive probe
    eval_share: float = 0.875  # of the resized image the evaluation's centre crop keeps: 256 -> 224
    labels: LabelsConfig = field(default_factory=LabelsConfig)


class Probe(ClassificationObjective):
    Config = ProbeConfig
    config: ProbeConfig
    no_weight_decay = ()  # the encoder is frozen

    def __init__(self, config: ProbeConfig, vit: ViTConfig):
        super().__init__()
        self.config = config
        last = config.layer or vit.depth
        if not 1 <= config.blocks <= last <= vit.depth:
            raise ValueError(
                f"--settings.layer {config.layer} and --settings.blocks {config.blocks}: this encoder has {vit.depth} "
                "blocks"
            )
        if not config.lrs or min(config.lrs) <= 0 or len(set(config.lrs)) < len(config.lrs):
            raise ValueError(f"--settings.lrs {config.lrs}: at least one factor, all above 0, none twice")
        self.suffixes = tuple(f"_lr_{f:g}" for f in config.lrs) if len(config.lrs) > 1 else ("",)
        self.layers = tuple(range(last - config.blocks + 1, last + 1))
        self.width = vit.dim * config.blocks * (2 if config.pooling == "both" else 1)
        self.encoder = ViT(vit).requires_grad_(False)  # f
        self.track_statistics(self.width)
        self.heads = nn.ModuleList(self._head() for _ in config.lrs)

    def _head(self) -> nn.Module:
        linear = nn.Linear(self.width, self.labels.count)  # W, b
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        if self.config.pooling != "attentive":
            return linear
        return nn.Sequential(AttentivePool(self.width, self.config.heads), linear)

    def lr_multiplier(self, name: str) -> float:
        return self.config.lrs[int(name.split(".")[1])]  # heads.<number>.

    def features(self, image: Tensor) -> Tensor:
        """h [B, D], or all tokens [B, 1 + N, D] for the attentive probe; float32."""

        def chunk(x: Tensor) -> Tensor:
            tokens = torch.cat(self.encoder.layers(self.encoder.normalise(x), self.layers), dim=-1)  # [b, 1 + N, D]
            return tokens.float() if self.config.pooling == "attentive" else pooled(tokens.float(), self.config.pooling)

        return in_chunks(chunk, image)

    def sample(self, batch: Batch, t: float) -> Batch:
        h = self.features(batch["image"])
        if self.config.pooling != "attentive":
            # A trial on noise does not wait for other processes.
            h = self.batch_normalised(h, "label" in batch) if self.training else self.normalised(h)
        return {"h_n": h, "y": self.label_of(batch)} | ({} if self.training else {"image": batch["image"]})

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "h_n" in batch else self.sample(batch, t)
        h_n, y = batch["h_n"], batch["y"]
        each = [label_loss(head(h_n), y, self.labels) for head in self.heads]
        named = {f"loss{suffix}": loss.detach() for suffix, loss in zip(self.suffixes, each, strict=True)}
        return named | {"loss": torch.stack(each).sum()}

    def classify(self, image: Tensor) -> Tensor:
        h = self.features(image)
        h_n = h if self.config.pooling == "attentive" else self.normalised(h)
        return torch.stack([head(h_n) for head in self.heads], dim=1)

    def linear_classifier(self, head: int = 0) -> LinearClassifier:
        """W h_n + b = (W s) h + (b - (W s) mean) with s = 1 / sqrt(var + eps); blocks after `layer` are left out."""
        linear, pooling, last = self.heads[head], self.config.pooling, self.layers[-1]
        if pooling == "attentive" or not isinstance(linear, nn.Linear):
            raise ValueError("an attentive probe pools all tokens, which no other library's classifier does")
        if len(self.layers) > 1:
            raise ValueError(f"a probe of {len(self.layers)} blocks, and other libraries' classifiers take one")
        encoder = deepcopy(self.encoder)
        encoder.blocks, encoder.config = encoder.blocks[:last], replace(encoder.config, depth=last)
        folded = nn.Linear(self.width, linear.out_features)
        weight = linear.weight.double() * (self.var.double() + EPS).rsqrt()
        with torch.no_grad():
            folded.weight.copy_(weight)
            folded.bias.copy_(linear.bias.double() - weight @ self.mean.double())
        return LinearClassifier(encoder, Pool(pooling), folded).eval()

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image, f = batch["image"], self.encoder
        x = f.normalise(image)
        return {"image": image, "where the class token looks": overlay(image, f.attend(x)[1], f.grid(x))}


class AttentivePool(nn.Module):
    """One learned query attends to all tokens: [B, S, D] -> [B, D] (as in CAE, Chen et al. 2022; no MLP)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"--settings.heads {heads}: a width of {dim} cannot be divided by them")
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.kv = nn.Linear(dim, 2 * dim)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.xavier_uniform_(self.kv.weight)
        nn.init.zeros_(self.kv.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        k, v = self.kv(self.norm(tokens)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, S, d]
        q = self.query.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(len(k), -1, -1, -1)  # [B, heads, 1, d]
        return F.scaled_dot_product_attention(q, k, v).flatten(1)  # [B, D]

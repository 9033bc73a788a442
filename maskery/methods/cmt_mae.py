"""CMT-MAE: collaborative masking and targets for masked autoencoders (Mo, AAAI 2025, arXiv 2412.17566).

x          normalised image                                            [B, C, H, W]
f_t, A_t   frozen teacher on the full image: features of the patches, attention to them   [B, N, D_t], [B, N]
f_s, A_s   momentum student on the full image, likewise                [B, N, D], [B, N]
alpha      weight of the teacher
A_c        alpha A_t + (1 - alpha) A_s, what the mask is drawn from    [B, N]
m          mask, hides the fraction r of the N patches
p_t, p_s   two heads of MAE's decoder on z = theta(x; m)               [B, N, D_t], [B, N, D]

    L = alpha mean over hidden patches of d(p_t, f_t) + (1 - alpha) mean over hidden patches of d(p_s, f_s)
    d(p, f) = 2 - 2 cos(p, f)
    xi <- a xi + (1 - a) theta after every optimiser step, xi the momentum student

Stated by the paper's abstract: masks come from a linear aggregation of the attentions of teacher and student; the
output features of both are what the decoder predicts; the teacher is a pretrained network such as CLIP.
Stated by summaries of the paper: the teacher is frozen; the student's part comes from a momentum copy; the most
informative patches are hidden; one weight alpha; two stages.

Assumed, each with the sibling method it is taken from:
- A is the last block's softmax from class token to patches, its mean over heads, scaled to sum 1: MILAN, AttMask, UMT
- hidden patches are sampled without replacement in proportion to A_c (`sampling`), not the highest ones: MILAN, UMT,
  which sample what stays visible; hence `direction = "keep_high"`, as they have it, and "random", the control
- the loss is on hidden patches (`loss_on`; MILAN's is on all), 2 - 2 cos, and there is no loss of pixels: MILAN
- both targets share MAE's decoder up to its last layer
- alpha = 0.5, the same for masks and losses (`alpha`); the two stages as a ramp of alpha (`alpha_start`, `alpha_ramp`)
- momentum 0.996 -> 1 by a cosine: BYOL, iBOT
- the student's encoder is the one to use: MAE, MILAN
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import Crop
from ..nn import masking
from ..nn.baselines import ONE_DIRECTION, Baselines
from ..nn.decoder import Decoder, DecoderSize
from ..nn.frozen import Frozen
from ..nn.teacher import Ema
from ..nn.vit import ViT, ViTConfig
from ..objective import Batch, Losses, Objective
from ..pictures.reconstruction import masked, overlay
from ..schedule import cosine


@dataclass(frozen=True)
class CMTMAEConfig:
    mask_ratio: float = 0.75  # r (as MAE)
    alpha: float = 0.5  # the teacher's weight in masks and loss; always 0: no teacher, always 1: no momentum student
    alpha_start: float | None = None  # alpha at the beginning, from where it goes to `alpha`; None: it is constant
    alpha_ramp: float = 0.5  # fraction of the run over which it does
    direction: Literal["mask_high", "keep_high", "random"] = "mask_high"  # hide high A_c; keep it visible; MAE's masks
    sampling: Literal["draw", "top"] = "draw"  # in proportion to A_c, or always the highest
    loss_on: Literal["masked", "all", "visible"] = "masked"  # patches with a loss
    momentum: float = 0.996  # a at the beginning; it goes to 1
    teacher: str = "vit_base_patch16_clip_quickgelu_224.openai"  # timm's name; a run or export; random:NAME, for tests
    teacher_weights: str | None = None  # a file with the teacher's weights, instead of timm's download
    decoder: DecoderSize = field(default_factory=DecoderSize)  # as MAE

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("alpha_start", self.alpha_start), ("momentum", self.momentum)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value:g}: it has to be from 0 to 1")
        if not 0 < self.alpha_ramp <= 1:
            raise ValueError(f"alpha_ramp is {self.alpha_ramp:g}: it has to be above 0 and at most 1")

    def alpha_at(self, t: float) -> float:
        """alpha at progress t: a straight line from `alpha_start` to `alpha`, then `alpha`."""
        start = self.alpha if self.alpha_start is None else self.alpha_start
        return start + (self.alpha - start) * min(t / self.alpha_ramp, 1.0)


class CMTMAE(Objective):
    Config = CMTMAEConfig
    encoders = ("encoder.", "momentum.net.")

    def __init__(self, config: CMTMAEConfig, vit: ViTConfig, teacher: Frozen | None = None):
        super().__init__()
        self.config = config
        masking.visible_count(vit.num_patches, config.mask_ratio)
        if self.teacher_source(config) and teacher is None:
            raise ValueError("alpha is above 0: a teacher is needed (maskery.weights.teacher.build_objective loads it)")
        self.widths = {"teacher": teacher.dim} if teacher else {}  # outputs of each head
        self.widths |= {"student": vit.dim} if min(config.alpha_at(0.0), config.alpha_at(1.0)) < 1 else {}
        self.notes = (teacher.note,) if teacher else ()

        self.encoder = ViT(vit)  # theta
        self.decoder = Decoder(vit, config.decoder, sum(self.widths.values()))
        self.momentum = Ema(self.encoder) if "student" in self.widths else None  # xi
        self.teacher = teacher

    @classmethod
    def teacher_source(cls, settings: CMTMAEConfig) -> tuple[str, str | None] | None:
        alpha_is_zero = max(settings.alpha_at(0.0), settings.alpha_at(1.0)) == 0  # alpha stays between these
        return None if alpha_is_zero else (settings.teacher, settings.teacher_weights)

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    @torch.no_grad()
    def sample(self, batch: Batch, t: float) -> Batch:
        image = batch["image"]
        alpha = torch.full((), self.config.alpha_at(t), device=image.device)  # a float would recompile at every t
        drawn, A_c = {"alpha": alpha}, torch.zeros((), device=image.device)
        if self.teacher is not None:
            f_t, A_t = self.teacher.attend(image, self.encoder.grid(image))
            drawn |= {"teacher_features": f_t, "teacher_attention": A_t}
            A_c = A_c + alpha * A_t
        if self.momentum is not None:
            xi = self.momentum.net
            y, A_s = xi.attend(xi.normalise(image))
            drawn |= {"student_features": y[:, 1:], "student_attention": A_s}
            A_c = A_c + (1 - alpha) * A_s
        m = masking.hide_highest(self.scores(A_c), self.config.mask_ratio)
        return batch | drawn | {"attention": A_c, "mask": m}

    def scores(self, A_c: Tensor) -> Tensor:
        """Masking scores [B, N] float32; the highest are hidden.

        The highest values of log A + Gumbel noise are a sample without replacement in proportion to A (Gumbel top-k).
        The noise is made of MAE's random scores.
        """
        b, n = A_c.shape
        if self.config.direction == "random":
            return masking.random_scores(b, n, A_c.device)
        high = A_c.float().clamp_min(1e-30).log()  # finite where A is 0, so that these are ordered by chance
        if self.config.sampling == "draw":
            high = high - (-masking.random_scores(b, n, A_c.device).log()).log()
        return high if self.config.direction == "mask_high" else -high

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "mask" in batch else self.sample(batch, t)
        m, alpha, x = batch["mask"], batch["alpha"], self.encoder.normalise(batch["image"])
        loss_on, z = self.config.loss_on, self.encoder.encode(x, m)
        places = {"masked": masking.hidden_places(m), "visible": m.keep}.get(loss_on)  # None: all

        p = self.decoder(z, m, self.encoder.grid(x), hidden_only=loss_on == "masked").float()
        if loss_on == "visible":
            p = masking.take(p, m.keep)
        L: dict[str, Tensor] = {"teacher": torch.zeros_like(alpha), "student": torch.zeros_like(alpha)}
        logged = {"alpha": alpha} if self.config.alpha_start is not None else {}
        for name, p_i in zip(self.widths, p.split([*self.widths.values()], dim=-1), strict=True):
            f_i = batch[f"{name}_features"].float()
            f_i = f_i if places is None else masking.take(f_i, places)
            L[name] = 2 - 2 * F.cosine_similarity(p_i, f_i, dim=-1).mean()
            logged |= {f"loss_{name}": L[name], f"entropy_{name}": entropy(batch[f"{name}_attention"])}
        if len(self.widths) == 2:
            both = torch.minimum(batch["teacher_attention"], batch["student_attention"])
            logged["agreement"] = both.sum(1).mean()
        return logged | {"loss": alpha * L["teacher"] + (1 - alpha) * L["student"]}

    def after_step(self, t: float) -> None:
        if self.momentum is not None:
            self.momentum.update(self.encoder, cosine(self.config.momentum, 1.0, t))

    def trivial_baselines(self, batch: Batch) -> Baselines:
        """One direction for all patches: the mean target. Only of the teacher: the momentum student's targets move."""
        if self.teacher is None:
            return {}
        f = F.normalize(batch["teacher_features"].float(), dim=-1)
        return {"loss_teacher": {ONE_DIRECTION: 2 - 2 * float(f.mean((0, 1)).norm())}}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        image, grid = batch["image"], self.encoder.grid(batch["image"])
        shown = {f"{name}'s attention": batch[f"{name}_attention"] for name in self.widths}
        if self.config.direction != "random":
            shown["what drew the mask"] = batch["attention"]
        heat = {caption: overlay(image, A, grid) for caption, A in shown.items()}
        return {"original": image.clamp(0, 1)} | heat | {"masked": masked(image, batch["mask"].hidden, grid)}


def entropy(A: Tensor) -> Tensor:
    """Mean entropy of attentions [B, N], divided by log N: 1 when they are even, 0 when all is on one patch."""
    return torch.special.entr(A).sum(1).mean() / math.log(A.shape[1])

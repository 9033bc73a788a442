"""RC-MAE: reconstruction-consistent masked autoencoder (Lee et al., ICLR 2023, arXiv 2210.02077).

x        normalised image                                          [B, C, H, W]
m        mask, hides the fraction r of the N patches, H of them; m_xi the teacher's
theta    student: MAE's encoder, mask token and decoder
xi       teacher: the exponential moving average of all of theta
x_hat    theta(x; m), the student's prediction of what m hides     [B, H, P]
x_tilde  xi(x; m_xi), the teacher's of the same, without gradient  [B, H, P]
u        pixels of these patches as MAE predicts them              [B, H, P]

    L = mean over hidden patches of mean |x_hat - u|^2 + gamma mean over hidden patches of mean |x_hat - x_tilde|^2
    xi <- a xi + (1 - a) theta after every optimiser step

Stated by the paper or its code: the loss, on raw predictions and hidden patches, gamma = 1, the same mask for both;
the teacher's encoder is the one to use; momentum 0.996.
The momentum: documented as a cosine from 0.996 to 1, and that is our default. The authors' code counts its schedule
within the epoch and so in effect runs at 0.996: `momentum_schedule = "constant"`. It also moves the teacher at every
micro-batch; here it moves at every optimiser step.
Assumed: with `teacher_mask = "different"` (the paper's RC-MAE-D) the teacher's mask is drawn as the student's is, and
consistency is asked for where both hide, since MAE's predictions of visible patches are never trained.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..data.crops import Crop
from ..nn import masking
from ..nn.baselines import Baselines, pixel_guesses
from ..nn.decoder import DecoderSize
from ..nn.targets import pixels
from ..nn.teacher import Ema, distance
from ..nn.vit import ViT, ViTConfig
from ..objective import Batch, Losses, Objective
from ..pictures.reconstruction import reconstruction
from ..schedule import cosine
from .mae import MAE, MAEConfig


@dataclass(frozen=True)
class RCMAEConfig:
    mask_ratio: float = 0.75  # r (as MAE)
    norm_pix: bool = True  # predict pixels normalised within their patch (as MAE)
    gamma: float = 1.0  # weight of consistency (reference code: the two losses are added)
    momentum: float = 0.996  # a at the beginning (reference code)
    momentum_schedule: Literal["cosine", "constant"] = "cosine"  # to 1 (documented), or as the authors ran it in effect
    teacher_mask: Literal["same", "different"] = "same"  # the paper's default, and its variant
    decoder: DecoderSize = field(default_factory=DecoderSize)  # as MAE; Ti and S from the reference code

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ValueError(f"gamma is {self.gamma:g}: the weight of consistency has to be 0 or more, and finite")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum is {self.momentum:g}: the teacher's momentum has to lie between 0 and 1")


class RCMAE(Objective):
    Config = RCMAEConfig
    encoders = ("teacher.net.encoder.", "student.encoder.")

    def __init__(self, config: RCMAEConfig, vit: ViTConfig):
        super().__init__()
        self.config = config
        self.student = MAE(MAEConfig(config.mask_ratio, config.norm_pix, config.decoder), vit)  # theta
        self.teacher = Ema(self.student)  # xi

    @property
    def encoder(self) -> ViT:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.teacher.net.encoder

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def sample(self, batch: Batch, t: float) -> Batch:
        drawn = self.student.sample(batch, t)
        if self.config.teacher_mask == "same":
            return drawn | {"teacher_mask": drawn["mask"]}
        m, m_xi = drawn["mask"], self.student.sample(batch, t)["mask"]
        both = (m.hidden * m_xi.hidden).sum().clamp_min(1) / len(m.hidden)  # mean per image: the denominator must not
        return drawn | {"teacher_mask": m_xi, "both_hidden": both}  # depend on how the batch is cut into micro-batches

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "mask" in batch else self.sample(batch, t)
        theta, xi, gamma = self.student, self.teacher.net, self.config.gamma
        m, m_xi = batch["mask"], batch["teacher_mask"]
        x = theta.encoder.normalise(batch["image"])

        hidden = masking.hidden_places(m)
        x_hat = theta.predict(x, m, hidden_only=True)
        with torch.no_grad():
            same = self.config.teacher_mask == "same"
            x_tilde = xi.predict(x, m_xi, hidden_only=True) if same else masking.take(xi.predict(x, m_xi), hidden)
        u = pixels(x, theta.encoder.config.patch_size, self.config.norm_pix, hidden)
        d = (x_hat - x_tilde).square().mean(-1)  # [B, H]
        both = m_xi.hidden.gather(1, hidden)  # [B, H], where the teacher hides them as well

        reconstruction = (x_hat - u).square().mean()
        consistency = d.mean() if same else (d * both).sum() / (len(x) * batch["both_hidden"])
        return {
            "loss": reconstruction + gamma * consistency,
            "reconstruction": reconstruction,
            "consistency": consistency,
            "teacher_distance": distance(x_hat.detach(), x_tilde),
        }

    def after_step(self, t: float) -> None:
        start = self.config.momentum
        self.teacher.update(self.student, cosine(start, 1.0, t) if self.config.momentum_schedule == "cosine" else start)

    def trivial_baselines(self, batch: Batch) -> Baselines:
        x, p = self.student.encoder.normalise(batch["image"]), self.student.encoder.config.patch_size
        return {"reconstruction": pixel_guesses(x, batch["mask"].hidden, p, self.config.norm_pix)}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        theta, xi, m = self.student, self.teacher.net, batch["mask"]
        x, norm_pix = theta.encoder.normalise(batch["image"]), self.config.norm_pix
        columns = reconstruction(theta.encoder, x, theta.predict(x, m), m, norm_pix)
        teacher_columns = reconstruction(xi.encoder, x, xi.predict(x, m), m, norm_pix)
        last = list(teacher_columns)[2]
        return columns | {f"teacher's {last}": teacher_columns[last]}

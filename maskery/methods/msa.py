"""MSA: masked Siamese autoencoder (Zhu et al., "Teaching Masked Autoencoder With Strong Augmentations", TNNLS 2025).

x       weak view: crop and flip, normalised                       [B, C, H, W]
x_s     strong view: the same pixels under strong photometric changes
m       mask, hides the fraction r of the N patches from the student, H of them
z       theta(x; m), the student's encoder on visible patches      [B, 1 + K, D]
x_hat   g(z; m), MAE's decoder, its predictions of hidden patches  [B, H, P]
q       h(z; m), the feature decoder                               [B, 1 + N, D]
y       xi(x_s), the teacher on all patches, without gradient      [B, 1 + N, D]
u, v    their pixels as MAE predicts them; LN(y), LayerNorm without scale and bias

    L = mean over hidden patches of mean |x_hat - u|^2 + lambda mean over patches of (2 - 2 cos(q, v))
    xi <- a xi + (1 - a) theta after every optimiser step

Stated by the paper's abstract, all of it that is public: the student is MAE, masked and reconstructing; the teacher
sees the unmasked strong view and imposes high-level discrimination on the student; strong augmentation put into MAE
itself hurts, because pixels become uncertain (`student_view = "strong"`).

Assumed, each with the sibling method it is taken from:
- both views share crop and flip; `geometry = "shifted"` moves the teacher's by some pixels (CMAE's pixel shift, which
  cuts two windows out of a larger crop; here borders are reflected)
- the values of strong augmentation (`strong`): BYOL, DINO and iBOT
- the feature decoder, two blocks as wide as the pixel decoder (`feature_depth`): CMAE
- targets LN(y), after the teacher's last norm: SiameseIM, dBOT; aligned at every patch (`align`, `align_on`): SiameseIM
- 2 - 2 cos (`align_loss`): BYOL; smooth L1 with beta 1: dBOT; InfoNCE times 2 tau, tau 0.2: MoCo v3, CMAE
- lambda = 1 (`lam`): CMAE
- a teacher that averages the student's encoder (`teacher`), momentum 0.996 -> 1 by a cosine: BYOL, iBOT
- the student's encoder is the one to use: CMAE
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import Crop
from ..data.photometric import Strong
from ..nn import masking
from ..nn.baselines import Baselines, pixel_guesses
from ..nn.decoder import Decoder, DecoderSize
from ..nn.masking import Mask, take
from ..nn.targets import pixels
from ..nn.teacher import Ema
from ..nn.vit import ViT, ViTConfig
from ..objective import Batch, Losses, Objective
from ..pictures.reconstruction import reconstruction
from ..schedule import cosine

View = Literal["weak", "strong"]


@dataclass(frozen=True)
class MSAConfig:
    mask_ratio: float = 0.75  # r (as MAE)
    norm_pix: bool = True  # predict pixels normalised within their patch (as MAE)
    lam: float = 1.0  # lambda, weight of the alignment
    align: Literal["dense", "class", "mean"] = "dense"  # every patch, the class token, or the mean of the patches
    align_on: Literal["all", "masked", "visible"] = "all"  # which patches
    align_loss: Literal["cosine", "smooth_l1", "infonce"] = "cosine"
    tau: float = 0.2  # temperature of infonce: against the image's other patches (dense), or the batch's other images
    teacher: Literal["ema", "shared"] = "ema"  # xi: an average of theta, or theta itself without gradient
    momentum: float = 0.996  # a at the beginning, 1 at the end
    geometry: Literal["same", "shifted"] = "same"  # shifted: the teacher's view by up to patch_size - 1 pixels
    student_view: View = "weak"  # strong: the paper's control that hurts; its pixels are what is reconstructed, too
    teacher_view: View = "strong"  # weak: a control without strong augmentation
    teacher_mask: Literal["none", "same"] = "none"  # same: a control, xi sees and teaches the visible patches only
    strong: Strong = field(default_factory=Strong)
    feature_depth: int = 2  # blocks of h; its width and heads are the pixel decoder's
    decoder: DecoderSize = field(default_factory=DecoderSize)  # g (as MAE)

    def __post_init__(self) -> None:
        if self.teacher_mask == "same" and self.align_on == "masked":
            raise ValueError("align_on is masked, but teacher_mask same hides those from the teacher: all or visible")
        if self.align == "class" and self.align_on != "all":
            raise ValueError(f"align_on is {self.align_on}, but align class compares no patches: all")
        if not self.lam >= 0:
            raise ValueError(f"lam is {self.lam:g}: at least 0")
        if self.feature_depth < 1:
            raise ValueError(f"feature_depth is {self.feature_depth}: the feature decoder needs at least 1 block")
        if not self.tau > 0:
            raise ValueError(f"tau is {self.tau:g}: a temperature above 0")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum is {self.momentum:g}: between 0 and 1")


class MSA(Objective):
    Config = MSAConfig
    encoders = ("encoder.", "teacher.net.")

    def __init__(self, config: MSAConfig, vit: ViTConfig):
        super().__init__()
        self.config = config
        masking.visible_count(vit.num_patches, config.mask_ratio)
        features = DecoderSize(config.decoder.dim, config.feature_depth, config.decoder.heads)
        self.encoder = ViT(vit)  # theta
        self.decoder = Decoder(vit, config.decoder, vit.patch_size**2 * vit.channels)  # g
        self.feature_decoder = Decoder(vit, features, vit.dim)  # h
        self.teacher = Ema(self.encoder) if config.teacher == "ema" else None  # xi
        self.notes = tuple(notes(config, vit.channels))
        self.needs_whole_batch = config.align_loss == "infonce" and config.align != "dense"

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def sample(self, batch: Batch, t: float) -> Batch:
        image, p = batch["image"], self.encoder.config.patch_size
        rows, columns = self.encoder.grid(image)
        scores = masking.random_scores(len(image), rows * columns, image.device)  # first, so that masks are MAE's
        drawn: Batch = {"mask": masking.hide_highest(scores, self.config.mask_ratio)}
        if "strong" in (self.config.student_view, self.config.teacher_view):
            drawn["strong"] = self.config.strong(image, self.config.strong.draw(len(image), image.device))
        if self.config.geometry == "shifted":
            drawn["shift"] = torch.randint(1 - p, p, (len(image), 2), device=image.device)
        return batch | drawn

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "mask" in batch else self.sample(batch, t)
        theta, g, h, xi, m = self.encoder, self.decoder, self.feature_decoder, self.xi, batch["mask"]
        x, x_s = theta.normalise(self.student_input(batch)), xi.normalise(self.teacher_input(batch))

        z = theta.encode(x, m)
        x_hat, q = g(z, m, theta.grid(x), hidden_only=True).float(), h.predict(z, m, theta.grid(x)).float()
        with torch.no_grad():
            y = xi.encode(x_s, m if self.config.teacher_mask == "same" else None).float()
        u = pixels(x, theta.config.patch_size, self.config.norm_pix, masking.hidden_places(m))
        q, v = self.pairs(q, y, m)

        reconstruction = (x_hat - u).square().mean()
        alignment = distance(q, v, self.config)
        return {
            "loss": reconstruction + self.config.lam * alignment,
            "reconstruction": reconstruction,
            "alignment": alignment,
            "target_spread": v.flatten(0, 1).std(0, correction=0).mean(),  # at most 1; 0: all targets are one
        }

    @property
    def xi(self) -> ViT:
        return self.teacher.net if self.teacher is not None else self.encoder

    def student_input(self, batch: Batch) -> Tensor:
        return batch["image" if self.config.student_view == "weak" else "strong"]

    def teacher_input(self, batch: Batch) -> Tensor:
        view = batch["image" if self.config.teacher_view == "weak" else "strong"]
        return shifted(view, batch["shift"]) if self.config.geometry == "shifted" else view

    def pairs(self, q: Tensor, y: Tensor, m: Mask) -> tuple[Tensor, Tensor]:
        """Predictions and targets that belong together, both [G, A, D]; the A of one group are each other's negatives.

        q [B, 1 + N, D], y the same or [B, 1 + K, D] when the teacher saw the visible patches only.
        """
        masked_teacher = self.config.teacher_mask == "same"
        if self.config.align == "class":
            q, y = q[:, 0], y[:, 0]  # [B, D]
        else:
            q, y = q[:, 1:], y[:, 1:]
            if masked_teacher or self.config.align_on != "all":
                place = masking.hidden_places(m) if self.config.align_on == "masked" else m.keep
                q, y = take(q, place), y if masked_teacher else take(y, place)  # [B, A, D]
        if self.config.align == "mean":
            q, y = q.mean(1), y.mean(1)  # [B, D]
        if self.config.align != "dense":
            q, y = q[None], y[None]  # [1, B, D]
        return q, F.layer_norm(y, y.shape[-1:])

    def after_step(self, t: float) -> None:
        if self.teacher is not None:
            self.teacher.update(self.encoder, cosine(self.config.momentum, 1.0, t))

    def trivial_baselines(self, batch: Batch) -> Baselines:
        x, p = self.encoder.normalise(self.student_input(batch)), self.encoder.config.patch_size
        return {"reconstruction": pixel_guesses(x, batch["mask"].hidden, p, self.config.norm_pix)}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        m, theta = batch["mask"], self.encoder
        x = theta.normalise(self.student_input(batch))
        x_hat = self.decoder(theta.encode(x, m), m, theta.grid(x)).float()
        columns = reconstruction(theta, x, x_hat, m, self.config.norm_pix)
        shown = {"original": batch["image"]}
        if self.config.student_view == "strong":
            shown["strong view (the student's)"] = columns["original"]
        shown[f"{self.config.teacher_view} view (the teacher's)"] = self.teacher_input(batch)
        return shown | {caption: images for caption, images in columns.items() if caption != "original"}


def distance(q: Tensor, v: Tensor, config: MSAConfig) -> Tensor:
    """Distance of predictions q from targets v, both float32 [G, A, D]: a scalar."""
    match config.align_loss:
        case "cosine":
            return 2 - 2 * F.cosine_similarity(q, v, dim=-1).mean()
        case "smooth_l1":
            return F.smooth_l1_loss(q, v)
        case "infonce":
            with torch.autocast(q.device.type, enabled=False):  # bf16 cosines are too coarse to be divided by tau
                logits = F.normalize(q, dim=-1) @ F.normalize(v, dim=-1).mT / config.tau  # [G, A, A]
            own = torch.arange(q.shape[1], device=q.device).expand(q.shape[:2])
            return 2 * config.tau * F.cross_entropy(logits.flatten(0, 1), own.flatten())


def shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Images [B, C, H, W], each moved by its `shift` [B, 2] of (down, right) pixels; borders are reflected."""
    for axis in (2, 3):
        n = images.shape[axis]
        at = torch.arange(n, device=images.device) - shift[:, axis - 2, None]  # [B, n], where pixels come from
        at = (n - 1) - ((n - 1) - at.abs()).abs()
        shape = [len(images), 1, 1, 1]
        shape[axis] = n
        images = images.gather(axis, at.view(shape).expand_as(images))
    return images


def notes(config: MSAConfig, channels: int) -> list[str]:
    """What a user should know about these settings."""
    lines = ["msa implements the mechanism the paper states; unspecified parts follow CMAE, SiameseIM, dBOT and iBOT"]
    if channels != 3 and "strong" in (config.student_view, config.teacher_view):
        lines.append(f"the strong view of {channels} channels has brightness, contrast, blur, solarisation; no colours")
    if config.align_loss == "infonce" and config.align != "dense":
        lines.append("infonce compares the images of one process's batch: on more processes it is another loss")
    return lines

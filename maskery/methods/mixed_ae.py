"""MixedAE: mixed autoencoder with homologous recognition (Chen et al., CVPR 2023, arXiv 2303.17152).

x       normalised images, in groups of G                            [B, C, H, W]
o       owner of every place of a mixed sequence, in {0 .. G-1}^N; every member of the group owns K = N / G places
z       f(token), where a patch attends to the k patches that fit it
        best (homologous attention) and to the class token           [M, 1 + N, D]
x_hat   g(z_l where o_l = i, mask tokens elsewhere), for each image i,
        its predictions of the H = N - K places not owned            [B, H, P]
u       their pixels as MAE predicts them                            [B, H, P]

    token_l = patch(x^(o_l))_l + pos_l + seg_{o_l}
    L = mean over places not owned of mean |x_hat - u|^2 + lambda L_hom
    L_hom: each patch tells the patches of its own image from the others of its sequence (`homologous.contrast`)

Stated by the paper: images are mixed for MAE; naive mixing transfers worse; homologous recognition makes each patch
recognise the patches of its own image; an autoencoder without a teacher; 1.03 x MAE's cost at equal epochs. Its parts,
as public summaries name them: homologous attention, which ordinary attention replaces afterwards, a homologous
contrastive loss, a segment embedding.

Assumed:
- `mode = "compose"`: G images make *one* sequence of N tokens with one class token, M = B / G of them. It follows from
  1.03 x: a sequence for each image (`mode = "full"`, M = B) costs 2.4 x.
- Every place has one owner and every image owns as many; an image is decoded from its own tokens by MAE's decoder, with
  mask tokens elsewhere (MixMIM mixes so and reconstructs every image of the mixture).
- A patch query sees its `top_k` = N / G best patch keys (k-NN attention: the indices of the largest logits) and the
  class key, in all blocks from `first_block` = 0 on. The class query sees all. A query is not given its owner's mask.
- `segment`: one learned vector for each index in the group, N(0, 0.02) as MAE's class token.
- L_hom: the supervised contrastive loss (SupCon, positives averaged outside the logarithm) of the cosines of the
  encoder's output, temperature `tau`, weight `lam`.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.crops import Crop
from ..nn import homologous, masking
from ..nn.baselines import Baselines, pixel_guesses
from ..nn.decoder import Decoder, DecoderSize
from ..nn.masking import Mask
from ..nn.targets import patchify, pixels, unpatchify
from ..nn.vit import Mix, ViT, ViTConfig
from ..objective import Batch, Losses, Objective
from ..pictures.reconstruction import reconstruction


@dataclass(frozen=True)
class MixedAEConfig:
    group: int = 4  # G: images that are mixed; 1 - 1/G of each is hidden (assumed: MAE's 0.75)
    mode: Literal["compose", "full"] = "compose"  # mixed sequences: one a group, or one an image (assumed)
    top_k: int | None = None  # k: patch keys a query sees, of N; None: N / G (assumed: k-NN attention)
    first_block: int = 0  # blocks before it have ordinary attention (assumed: all are homologous)
    segment: bool = True  # add the learned embedding of the image's index in its group (named in summaries)
    tau: float = 0.25  # temperature of L_hom (assumed, no sibling has this loss; SupCon: 0.07 to 0.1)
    lam: float = 0.1  # lambda: weight of L_hom (assumed, no sibling has this loss)
    norm_pix: bool = True  # predict pixels normalised within their patch (as MAE)
    decoder: DecoderSize = field(default_factory=DecoderSize)  # as MAE


class MixedAE(Objective):
    Config = MixedAEConfig

    def __init__(self, config: MixedAEConfig, vit: ViTConfig):
        super().__init__()
        self.config, self.micro_batch_multiple, n = config, config.group, vit.num_patches
        check_group(config.group, n)
        if config.top_k is not None and not 1 <= config.top_k <= n:
            raise ValueError(f"top_k {config.top_k} is not one of 1 to {n}, the number of patches")
        if not 0 <= config.first_block < vit.depth:
            raise ValueError(f"first_block {config.first_block} is not one of 0 to {vit.depth - 1}, the blocks")
        if config.tau <= 0:
            raise ValueError(f"tau is {config.tau:g}: a temperature has to be above 0")
        self.encoder = ViT(vit)  # f
        self.decoder = Decoder(vit, config.decoder, vit.patch_size**2 * vit.channels)  # g
        self.segments = nn.Parameter(torch.empty(config.group, vit.dim)) if config.segment else None
        if self.segments is not None:
            nn.init.normal_(self.segments, std=0.02)
        self.notes = (
            f"{config.group} images share a mixed sequence: {1 - 1 / config.group:.0%} of each is hidden; "
            "the mechanism is the paper's, what is assumed stands in docs/methods/mixed-ae.md",
        )

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def sample(self, batch: Batch, t: float) -> Batch:
        """Add "mask", the patches an image is decoded from, and "places" [B, R K], those its group's sequences hold."""
        image, G = batch["image"], self.config.group
        rows, columns = self.encoder.grid(image)
        b, n = len(image), rows * columns
        check_group(G, n)
        if b % G:
            raise ValueError(f"a batch of {b} images cannot be mixed in groups of {G}: it has to be a multiple of {G}")
        m = b // G if self.config.mode == "compose" else b
        assigned = homologous.deal(masking.random_scores(m, n, image.device), G)  # [M, G, ...]
        mask = Mask(*(homologous.own(of, b) for of in assigned))
        return batch | {"mask": mask, "places": homologous.given(assigned.keep, b)}

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "mask" in batch else self.sample(batch, t)
        m, x, G = batch["mask"], self.encoder.normalise(batch["image"]), self.config.group

        fractions: list[Tensor] = []
        z = self.encode(x, m._replace(keep=batch["places"]), homologous.attention(self.top_k(x), G, fractions))
        x_hat = self.decoder(homologous.unmix(z, len(x), G), m, self.encoder.grid(x), hidden_only=True).float()
        u = pixels(x, self.encoder.config.patch_size, self.config.norm_pix, masking.hidden_places(m))

        reconstruction = (x_hat - u).square().mean()
        L_hom = homologous.contrast(z[:, 1:], G, self.config.tau)
        return {
            "loss": reconstruction + self.config.lam * L_hom,
            "reconstruction": reconstruction,
            "homologous": L_hom,
            "homologous_share": torch.stack(fractions).mean(),
        }

    def encode(self, x: Tensor, given: Mask, mix: Mix) -> Tensor:
        """z, the tokens of the mixed sequences after the last norm: [M, 1 + N, D]. `given.keep` [B, R K]: as drawn."""
        G, (rows, columns) = self.config.group, self.encoder.grid(x)
        tokens = self.encoder.embed(x, given)  # [B, 1 + R K, D]
        patches = tokens[:, 1:]
        if self.segments is not None:
            patches = patches + self.segments.repeat(len(x) // G, 1).unsqueeze(1)
        patches = homologous.mix(patches, G, rows * columns // G)  # [M, N, D]
        z = torch.cat([tokens[: len(patches), :1], patches], dim=1)  # all class tokens are still equal
        for i, block in enumerate(self.encoder.blocks):
            z = block(z, mix) if i >= self.config.first_block else block(z)
        return self.encoder.norm(z)

    def top_k(self, x: Tensor) -> int:
        """k for images [B, C, H, W]: the setting is for the configured size, and grows in proportion to the patches."""
        (rows, columns), n = self.encoder.grid(x), self.encoder.config.num_patches
        return max(1, (self.config.top_k or n // self.config.group) * rows * columns // n)

    def trivial_baselines(self, batch: Batch) -> Baselines:
        x, p = self.encoder.normalise(batch["image"]), self.encoder.config.patch_size
        return {"reconstruction": pixel_guesses(x, batch["mask"].hidden, p, self.config.norm_pix)}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        m, places, G = batch["mask"], batch["places"], self.config.group
        x, p = self.encoder.normalise(batch["image"]), self.encoder.config.patch_size
        grid = self.encoder.grid(x)
        z = self.encode(x, m._replace(keep=places), homologous.attention(self.top_k(x), G, []))
        x_hat = self.decoder(homologous.unmix(z, len(x), G), m, grid).float()
        original, masked, *predicted = reconstruction(self.encoder, x, x_hat, m, self.config.norm_pix).items()

        k = m.keep.shape[1]
        patches = homologous.mix(masking.take(patchify(x, p), places), G, k)  # [M, N, P]
        place = homologous.mix(places.unsqueeze(-1), G, k).expand_as(patches)
        mixed = unpatchify(torch.zeros_like(patches).scatter(1, place, patches), p, grid)
        mixed = self.encoder.denormalise(mixed).clamp(0, 1).repeat_interleave(len(x) // len(mixed), 0)
        return dict([original, ("mixed", mixed), ("what is its own", masked[1]), *predicted])


def check_group(group: int, n: int) -> None:
    """ValueError when `group` images cannot share `n` patches, two or more for each."""
    divisors = [g for g in range(2, n // 2 + 1) if n % g == 0]
    if group not in divisors:
        raise ValueError(
            f"a group of {group} images cannot share {n} patches equally, two or more for each; "
            f"possible are {', '.join(map(str, divisors)) or 'none'}"
        )

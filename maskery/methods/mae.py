"""MAE: masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377).

x       normalised image                                     [B, C, H, W]
m       mask, hides the fraction r of the N patches, H of them
z       f(x; m), the encoder on visible patches              [B, 1 + K, D]
x_hat   g(z; m), the decoder on visible and mask tokens,
        its predictions of the hidden patches                [B, H, P]
u       pixels of the hidden patches, by default each
        patch with zero mean and unit variance               [B, H, P]

    L = mean over hidden patches of mean |x_hat - u|^2

Everything here is stated by the paper or its reference code; nothing is assumed.
"""

from dataclasses import dataclass, field

from torch import Tensor

from ..data.crops import Crop
from ..nn import masking
from ..nn.baselines import Baselines, pixel_guesses
from ..nn.decoder import Decoder, DecoderSize
from ..nn.masking import Mask
from ..nn.targets import pixels
from ..nn.vit import ViT, ViTConfig
from ..objective import Batch, Losses, Objective
from ..pictures.reconstruction import reconstruction


@dataclass(frozen=True)
class MAEConfig:
    mask_ratio: float = 0.75  # r: fraction of patches that are hidden (section 4.1, figure 5)
    norm_pix: bool = True  # predict pixels normalised within their patch (table 1d)
    decoder: DecoderSize = field(default_factory=DecoderSize)  # 512 wide, 8 blocks (tables 1a, 1b), 16 heads


class MAE(Objective):
    Config = MAEConfig

    def __init__(self, config: MAEConfig, vit: ViTConfig):
        super().__init__()
        self.config = config
        masking.visible_count(vit.num_patches, config.mask_ratio)
        self.encoder = ViT(vit)  # f
        self.decoder = Decoder(vit, config.decoder, vit.patch_size**2 * vit.channels)  # g

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def sample(self, batch: Batch, t: float) -> Batch:
        image = batch["image"]
        rows, columns = self.encoder.grid(image)
        scores = masking.random_scores(len(image), rows * columns, image.device)
        return batch | {"mask": masking.hide_highest(scores, self.config.mask_ratio)}

    def forward(self, batch: Batch, t: float) -> Losses:
        batch = batch if "mask" in batch else self.sample(batch, t)
        m, x = batch["mask"], self.encoder.normalise(batch["image"])

        x_hat = self.predict(x, m, hidden_only=True)
        u = pixels(x, self.encoder.config.patch_size, self.config.norm_pix, masking.hidden_places(m))
        return {"loss": (x_hat - u).square().mean()}

    def predict(self, x: Tensor, m: Mask, *, hidden_only: bool = False) -> Tensor:
        """g(f(x; m); m) in float32: of all patches [B, N, P], or x_hat, of the hidden ones [B, H, P]."""
        z = self.encoder.encode(x, m)
        return self.decoder(z, m, self.encoder.grid(x), hidden_only=hidden_only).float()

    def trivial_baselines(self, batch: Batch) -> Baselines:
        x, p = self.encoder.normalise(batch["image"]), self.encoder.config.patch_size
        return {"loss": pixel_guesses(x, batch["mask"].hidden, p, self.config.norm_pix)}

    def picture(self, batch: Batch) -> dict[str, Tensor]:
        m, x = batch["mask"], self.encoder.normalise(batch["image"])
        return reconstruction(self.encoder, x, self.predict(x, m), m, self.config.norm_pix)

"""Original, masked image and reconstruction of methods that predict pixels.

B images, C channels, N patches, P = p * p * C
"""

from torch import Tensor

from ..nn.masking import Mask
from ..nn.targets import patchify, unpatchify, unstandardise
from ..nn.vit import ViT

GREY = 0.5


def reconstruction(encoder: ViT, x: Tensor, x_hat: Tensor, mask: Mask, norm_pix: bool) -> dict[str, Tensor]:
    """Columns of a strip from normalised images x [B, C, H, W] and predictions x_hat [B, N, P] of them.

    Predictions of normalised pixels lack the brightness and contrast of their patch. They are shown twice: with the
    true mean and std of each patch, which flatters them, and unchanged.
    """
    p, grid = encoder.config.patch_size, encoder.grid(x)
    patches, hidden = patchify(x, p), mask.hidden.unsqueeze(-1)  # [B, N, P], [B, N, 1]

    def image(patches: Tensor) -> Tensor:
        return encoder.denormalise(unpatchify(patches, p, grid)).clamp(0, 1)

    grey = patchify(encoder.normalise(0 * x + GREY), p)
    columns = {"original": image(patches), "masked": image(patches * (1 - hidden) + grey * hidden)}
    if not norm_pix:
        return columns | {"reconstruction": image(patches * (1 - hidden) + x_hat * hidden)}
    back = unstandardise(x_hat, patches)
    columns["reconstruction (with each patch's true mean and std)"] = image(patches * (1 - hidden) + back * hidden)
    plain = unpatchify(x_hat * hidden, p, grid) * 0.2 + GREY
    columns["prediction as it is (no mean, no contrast)"] = plain.clamp(0, 1)
    return columns

"""Operations of one training step, counted by hand; multiply and add are two.

A block on T tokens of width D: 24 T D^2 for its matrix products, 4 T^2 D for attention. Backward counts twice forward,
a teacher is forward alone. Norms, activations, positions, resizing and the optimiser are left out.
"""

from maskery.nn.decoder import DecoderSize
from maskery.nn.vit import ViTConfig


def blocks(tokens: float, dim: int, depth: int) -> float:
    return depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)


def encoder(vit: ViTConfig, patches: int) -> float:
    """Forward of the encoder on so many patches and the class token."""
    embed = 2 * patches * vit.patch_size**2 * vit.channels * vit.dim
    return embed + blocks(patches + 1, vit.dim, vit.depth)


def decoder(vit: ViTConfig, size: DecoderSize, visible: int, outputs: int, hidden_only: bool = True) -> float:
    """Forward of a decoder from `visible` patches and the class token to predictions at the hidden places, or at all.

    The last block has keys and values of all tokens (4 T D^2), everything else of those that are predicted.
    """
    tokens = vit.num_patches + 1
    wanted = vit.num_patches - visible if hidden_only else tokens
    ends = 2 * (visible + 1) * vit.dim * size.dim + 2 * wanted * size.dim * outputs
    left_out = (tokens - wanted) * (20 * size.dim**2 + 4 * tokens * size.dim) if size.depth else 0.0
    return ends + blocks(tokens, size.dim, size.depth) - left_out


def per_image(vit: ViTConfig, size: DecoderSize, teacher: ViTConfig | None = None) -> dict[str, float]:
    """FLOP of one image, forward and backward, by method at default settings; `teacher` is CMT-MAE's frozen one."""
    n, pixels = vit.num_patches, vit.patch_size**2 * vit.channels
    k, group, feature_depth = n // 4, 4, 2
    mae = encoder(vit, k) + decoder(vit, size, k, pixels)
    mixed = 2 * n / group * pixels * vit.dim + blocks(n + 1, vit.dim, vit.depth) / group + decoder(vit, size, k, pixels)
    features = decoder(vit, DecoderSize(size.dim, feature_depth, size.heads), k, vit.dim, hidden_only=False)
    frozen = teacher or vit
    targets = encoder(vit, k) + decoder(vit, size, k, vit.dim + frozen.dim)
    return {
        "mae": 3 * mae,
        "rc-mae": 3 * mae + mae,
        "mixed-ae": 3 * mixed,
        "msa": 3 * (mae + features) + encoder(vit, n),
        "cmt-mae": 3 * targets + encoder(vit, n) + encoder(frozen, n),
    }

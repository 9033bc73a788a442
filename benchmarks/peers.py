"""MAE as other libraries release it: the same network, each as its own documentation says one trains it.

A peer is a module and a function (module, images) -> loss. ImportError when its package is not there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from maskery.nn.vit import SIZES
from maskery.recipes import DECODERS

Peer = tuple[nn.Module, Callable[[Any, Tensor], Tensor]]


def transformers(case: Any) -> Peer:
    """`transformers.ViTMAEForPreTraining` with scaled-dot-product attention."""
    import transformers

    size, decoder = SIZES[case.model], DECODERS[case.model]
    config = transformers.ViTMAEConfig(
        hidden_size=size.dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=case.pixels,
        patch_size=case.patch,
        decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.dim,
        mask_ratio=0.75,
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
    return transformers.ViTMAEForPreTraining(config), lambda net, images: net(pixel_values=images).loss


def lightly(case: Any) -> Peer:
    """lightly's MAE on timm, put together as in its documented example, at the paper's decoder.

    Like that example it predicts masked patches only; its targets are plain pixels, which is less work than ours.
    """
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    size, decoder = SIZES[case.model], DECODERS[case.model]

    class LightlyMAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vit = VisionTransformer(case.pixels, case.patch, 3, 0, "", size.dim, size.depth, size.heads)
            self.backbone = MaskedVisionTransformerTIMM(vit=vit)
            self.decoder = MAEDecoderTIMM(
                num_patches=vit.patch_embed.num_patches,
                patch_size=case.patch,
                embed_dim=size.dim,
                decoder_embed_dim=decoder.dim,
                decoder_depth=decoder.depth,
                decoder_num_heads=decoder.heads,
            )

        def forward(self, images: Tensor, idx_keep: Tensor, idx_mask: Tensor) -> Tensor:
            encoded = self.backbone.encode(images=images, idx_keep=idx_keep)
            tokens = self.decoder.embed(encoded)
            masked = utils.repeat_token(self.decoder.mask_token, (len(images), self.backbone.sequence_length))
            masked = utils.set_at_index(masked, idx_keep, tokens.type_as(masked))
            decoded = utils.get_at_index(self.decoder.decode(masked), idx_mask)
            patches = utils.patchify(images, case.patch)
            return nn.functional.mse_loss(self.decoder.predict(decoded), utils.get_at_index(patches, idx_mask - 1))

    net = LightlyMAE()

    def loss(model: Any, images: Tensor) -> Tensor:
        tokens = net.backbone.sequence_length
        keep, mask = utils.random_token_mask((len(images), tokens), mask_ratio=0.75, device=images.device)
        return model(images, keep, mask)

    return net, loss


PEERS: dict[str, Callable[[Any], Peer]] = {"transformers": transformers, "lightly": lightly}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def installed(name: str, case: Any) -> Peer | None:
    """The peer, or None when its package is not there."""
    try:
        with torch.random.fork_rng(devices=[]):
            return PEERS[name](case)
    except ImportError:
        return None

"""Attention under a mask."""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's backward is wrong under a mask (pytorch/pytorch#196678), and it is PyTorch's first choice on Hopper and later
# cards. MixedAE on an H100, torch 2.11, 65 tokens: gradients ten thousand times too large, and nothing learned.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend to the keys that `mask` allows (bool, or added to the logits): [..., S, d] three times -> [..., S, d]."""
    with sdpa_kernel(KERNELS):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

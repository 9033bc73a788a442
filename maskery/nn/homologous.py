"""Mixed sequences of patches of several images, homologous attention and homologous contrast (MixedAE).

A mixed sequence has N patch tokens, K = N / G of each of the G images of a group, in the order of their owners: first
those of the group's first image. A transformer does not depend on the order: positions are
added before.

B images, G images a group, M mixed sequences (B / G of them, one a group, or B, one an image), R = M G / B mixed
sequences a group, N patches, K = N / G, D width, S = 1 + N tokens (class token first), d width of a head
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import masked_attention
from .masking import Mask
from .vit import Mix


def deal(scores: Tensor, group: int) -> Mask:
    """Assign the N places of every mixed sequence in equal parts to the members of its group, by scores [M, N].

    The mask of each member in each sequence: hidden [M, G, N], keep [M, G, K], restore [M, G, N]. The first member
    owns the K places with the lowest scores.
    """
    n = scores.shape[1]
    k = n // group
    order = scores.argsort(dim=1)  # [M, N]
    first = k * torch.arange(group, device=scores.device).unsqueeze(1)  # [G, 1]
    restore = (order.argsort(dim=1).unsqueeze(1) - first) % n  # [M, G, N]: turned until the own places come first
    return Mask((restore >= k).float(), order.unflatten(1, (group, k)), restore)


def mix(patches: Tensor, group: int, k: int) -> Tensor:
    """Join the patches that images contribute into the mixed sequences of their group: [B, R K, D] -> [M, N, D]."""
    parts = patches.unflatten(1, (-1, k)).unflatten(0, (-1, group))  # [B/G, G, R, K, D]
    return parts.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def given(parts: Tensor, b: int) -> Tensor:
    """The inverse of `mix` for sequences in parts: [M, G, K] -> [B, R K]."""
    return parts.unflatten(0, (b // parts.shape[1], -1)).transpose(1, 2).flatten(2).flatten(0, 1)


def own(parts: Tensor, b: int) -> Tensor:
    """Select the part that each image is decoded from: [M, G, ...] -> [B, ...].

    With one sequence a group that is every part; with one sequence an image, in each the part of that image.
    """
    m, group = parts.shape[:2]
    if m < b:
        return parts.flatten(0, 1)
    return parts.unflatten(0, (-1, group)).diagonal(dim1=1, dim2=2).movedim(-1, 1).flatten(0, 1)


def unmix(z: Tensor, b: int, group: int) -> Tensor:
    """Tokens of the mixed sequences -> each image's, with the class token of all: [M, 1 + N, D] -> [B, 1 + K, D]."""
    cls = z[:, :1].unsqueeze(1).expand(-1, b // len(z), -1, -1).flatten(0, 1)  # [B, 1, D]
    return torch.cat([cls, own(z[:, 1:].unflatten(1, (group, -1)), b)], dim=1)


def nearest(q: Tensor, k: Tensor, top_k: int) -> Tensor:
    """The `top_k` patch keys that fit each patch query best: [M, heads, S, d] twice -> indices [M, heads, N, top_k].

    Compared in float32: in bf16 many products would be equal, and ties would decide which of them wins.
    """
    with torch.autocast(q.device.type, enabled=False):
        logits = q[:, :, 1:].detach().float() @ k[:, :, 1:].detach().float().mT  # [M, heads, N, N]
    return logits.topk(top_k, sorted=False).indices


def attend(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor) -> Tensor:
    """Attention of patch queries to the patch keys `chosen` and the class key; the class query sees all keys.

    Keys are selected by index, not by a threshold, so that ties cannot add more. Keys that are not chosen get no
    gradient from that query. The softmax is PyTorch's own, in float32 at every precision.
    """
    n = chosen.shape[2]
    # added to the logits: from a bool mask, kernels would compute this in forward and again in backward
    bias = q.new_full((*chosen.shape[:3], n), -torch.inf).scatter_(-1, chosen, 0.0)
    bias = F.pad(bias, (1, 0, 1, 0))  # [M, heads, S, S]
    return masked_attention(q, k, v, bias)


def own_fraction(chosen: Tensor, group: int) -> Tensor:
    """Fraction of the `chosen` keys [M, heads, N, top_k] of the query's own image: a scalar, 1 / G by chance."""
    n = chosen.shape[2]
    owner = torch.arange(n, device=chosen.device).unsqueeze(1) // (n // group)  # [N, 1]
    return (chosen // (n // group) == owner).float().mean()


def attention(top_k: int, group: int, fractions: list[Tensor]) -> Mix:
    """Homologous attention as a function for `Block`; every call appends its `own_fraction` to `fractions`.

    With all N patch keys allowed it is ordinary attention, the same kernel.
    """

    def homologous(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if top_k >= q.shape[2] - 1:
            fractions.append(torch.full((), 1 / group, device=q.device))
            return F.scaled_dot_product_attention(q, k, v)
        chosen = nearest(q, k, top_k)
        fractions.append(own_fraction(chosen, group))
        return attend(q, k, v, chosen)

    return homologous


def contrast(patches: Tensor, group: int, tau: float) -> Tensor:
    """L_hom of patch tokens [M, N, D] in the order of their owners, a scalar.

    -1/N sum_l 1/|P_l| sum_{l+ in P_l} log( exp(cos(l, l+) / tau) / sum_{l' != l} exp(cos(l, l') / tau) ), where P_l
    are the other patches of l's image; the mean over mixed sequences. Always in float32.
    """
    n = patches.shape[1]
    owner = torch.arange(n, device=patches.device) // (n // group)
    itself = torch.eye(n, dtype=torch.bool, device=patches.device)
    positive = (owner == owner.unsqueeze(1)) & ~itself  # [N, N]
    with torch.autocast(patches.device.type, enabled=False):
        unit = F.normalize(patches.float(), dim=-1)
        logits = unit @ unit.mT / tau  # [M, N, N]
    others = logits.masked_fill(itself, -torch.inf).logsumexp(-1)  # [M, N]
    return (others - (logits * positive).sum(-1) / (n // group - 1)).mean()

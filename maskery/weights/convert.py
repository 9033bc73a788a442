"""State dicts of other libraries under our names. What our vision transformer can be is converted, without changing
what the network computes; what it cannot be is refused by name.

timm, the official MAE and RC-MAE, DINO and MoCo v3 have our names already. Hugging Face writes others, and has others
again in memory; both are read.

D width, N patches
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.vit import IMAGENET_MEAN, IMAGENET_STD, SIZES, ViT, ViTConfig

HEADS = {size.dim: size.heads for name, size in SIZES.items() if name != "vit-micro"}  # the published ones
HUGGING_FACE = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.", ""),  # cls_token, mask_token
    (r"^(decoder_)?(encoder\.)?layers?\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
HEADS_OF_OTHERS = r"(heads?|head_dist|fc|classifier|pooler|pre_logits|attn_pool|dino_head|ibot_head|mask_token)(\.|$)"
REFUSED = (  # a pattern in the name of a tensor, and what it is
    (r"^(reg|register)_tokens?$", "register tokens"),
    (r"^dist_token$", "a distillation token"),
    (r"^(norm_pre|pre_layrnorm|ln_pre)\.", "a norm before its first block, as CLIP has it"),
    (r"^fc_norm\.", "a norm of averaged patches in the place of the last norm, as a fine-tuned MAE has it"),
    (r"\.[qk]_norm\.", "norms of queries and keys"),
    (r"\.mlp\.(w\d+|weights_in|weights_out|fc1_[gx]|gate|gate_proj)\.", "a gated MLP (SwiGLU)"),
    (r"rel_pos|relative_position", "relative positions"),
)


@dataclass(frozen=True)
class Facts:
    """What no tensor says about a network, where it is known."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None  # (height, width) in pixels
    mean: tuple[float, ...] | None = None  # per channel, of values in [0, 1]
    std: tuple[float, ...] | None = None
    eps: float = 1e-6  # of the norms
    decoder_heads: int | None = None


def encoder_names(raw: Mapping[str, Tensor], facts: Facts) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of an encoder under our names in float32, and in words what was done besides renaming.

    The class token may be missing, nothing else. ValueError names what our ViT cannot be.
    """
    state = _renamed(raw)
    notes = _fold_layer_scale(state)
    left = sorted({name.split(".")[0] for name in state if re.match(HEADS_OF_OTHERS, name)})
    state = {name: t for name, t in state.items() if not re.match(HEADS_OF_OTHERS, name)}
    for pattern, what in REFUSED:
        for name in state:
            if re.search(pattern, name):
                raise ValueError(f"the network has {what} ({name}), which a plain vision transformer has not")
    kernel = state["patch_embed.proj.weight"]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(f"patch_embed.proj.weight is {list(kernel.shape)}: patches have to be square, [D, C, p, p]")
    if "pos_embed" not in state:
        raise ValueError("the network has no table of positions (pos_embed), which a plain vision transformer has")
    depth = 1 + max((int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    if any(f"blocks.{i}.attn.qkv.bias" not in state for i in range(depth)):
        notes.append("zeros for biases that its queries, keys and values do not have")
        for i in range(depth):
            state.setdefault(f"blocks.{i}.attn.qkv.bias", kernel.new_zeros(3 * kernel.shape[0]))
    if _class_token_is_nowhere(state["pos_embed"], kernel.shape[-1], facts):
        state["pos_embed"] = F.pad(state["pos_embed"], (0, 0, 1, 0))
        notes.append("zeros for the position of the class token, which it does not have")
    _same_as_ours(state, depth)
    return {k: t.float() for k, t in state.items()}, notes + ([f"{', '.join(left)} left out"] if left else [])


def decoder_names(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an MAE decoder under the names of `nn.decoder.Decoder`; empty when there is none."""
    state = {name.removeprefix("decoder_"): t.float() for name, t in _renamed(raw).items()}
    return state if "embed.weight" in state else {}


def config_of(encoder: Mapping[str, Tensor], facts: Facts) -> tuple[ViTConfig, list[str]]:
    """The network of these tensors, and in words what had to be assumed. ValueError names the fact that is missing."""
    dim, c, p, _ = encoder["patch_embed.proj.weight"].shape
    depth, notes = depth_of(encoder), []
    heads = facts.heads or HEADS.get(dim)
    if heads is None:
        raise ValueError(f"a width of {dim} does not say how many heads there are: say it behind the name, #heads=N")
    mean, std = normalisation(c, facts)
    if mean is None or std is None:
        raise ValueError(
            f"nothing says how its {c} channels were normalised: say it behind the name, "
            "#mean=M1:M2:...,std=S1:S2:... of values in [0, 1]"
        )
    if (mean, std) != (facts.mean, facts.std):
        notes.append("nothing says how its images were normalised: ImageNet's mean and std are taken")
    return ViTConfig(dim, depth, heads, p, image_size(encoder, facts), mean, std), notes


def depth_of(encoder: Mapping[str, Tensor]) -> int:
    return 1 + max((int(name.split(".")[1]) for name in encoder if name.startswith("blocks.")), default=-1)


def normalisation(c: int, facts: Facts) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of c channels as the facts have them, else ImageNet's for three, else None."""
    if facts.mean and facts.std and len(facts.mean) == len(facts.std) == c:
        return facts.mean, facts.std
    return (IMAGENET_MEAN, IMAGENET_STD) if c == 3 else (None, None)


def image_size(encoder: Mapping[str, Tensor], facts: Facts) -> tuple[int, int]:
    """(height, width) in pixels of the images that the positions are for."""
    n, p = encoder["pos_embed"].shape[1] - 1, encoder["patch_embed.proj.weight"].shape[-1]
    if facts.image_size and math.prod(side // p for side in facts.image_size) == n:
        rows, columns = (side // p for side in facts.image_size)  # a convolution leaves the rest of the pixels alone
        return rows * p, columns * p
    if not _whole_root(n):
        raise ValueError(
            f"its {n} positions are no square"
            + (f" and not those of {facts.image_size[0]} x {facts.image_size[1]} pixels" if facts.image_size else "")
            + ": say the size of its images behind the name, #size=HEIGHTxWIDTH"
        )
    return math.isqrt(n) * p, math.isqrt(n) * p


def _renamed(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, t in raw.items():
        for pattern, ours in HUGGING_FACE:
            name = re.sub(pattern, ours, name)
        if name in state:
            raise ValueError(f"two tensors would be {name}")
        state[name] = t
    apart = {re.sub(r"[qkv]\.(weight|bias)$", "", name) for name in state if re.search(r"attn\.[qkv]\.", name)}
    for block in sorted(apart):  # "blocks.0.attn."
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{block}{x}.{kind}", None) for x in "qkv"]
            known = [t for t in parts if t is not None]
            if (kind == "weight" and len(known) < 3) or len({t.shape for t in known}) > 1:
                raise ValueError(f"{block}qkv: the {kind}s of query, key and value are not three of one shape")
            if known:  # a key without a bias (BEiT) has a bias of zero
                state[f"{block}qkv.{kind}"] = torch.cat([torch.zeros_like(known[0]) if t is None else t for t in parts])
    return state


def _fold_layer_scale(state: dict[str, Tensor]) -> list[str]:
    """y = x + gamma * (W h + b) is y = x + (gamma W) h + gamma b."""
    scales = [name for name in state if re.search(r"^blocks\.\d+\.(ls[12]\.gamma|gamma_[12])$", name)]
    for name in scales:
        block, which = name.split(".")[1], "mlp.fc2" if re.search(r"ls2|gamma_2", name) else "attn.proj"
        gamma = state.pop(name).float()
        for kind in ("weight", "bias"):
            linear = f"blocks.{block}.{which}.{kind}"
            if linear not in state or gamma.shape != state[linear].shape[:1]:
                raise ValueError(f"{name}, {[*gamma.shape]}, does not scale {linear}")
            state[linear] = state[linear].float() * gamma.view(-1, *[1] * (state[linear].ndim - 1))
    return ["LayerScale multiplied into the weights it scales"] if scales else []


def _class_token_is_nowhere(table: Tensor, p: int, facts: Facts) -> bool:
    """Whether the table [1, N or 1 + N, D] has no row for the class token."""
    if table.ndim != 3:
        return False
    n = table.shape[1]
    if facts.image_size and (patches := math.prod(side // p for side in facts.image_size)) in (n, n - 1):
        return patches == n
    return _whole_root(n) and not _whole_root(n - 1)


def _same_as_ours(state: Mapping[str, Tensor], depth: int) -> None:
    """ValueError when a tensor is not in our ViT of this size, is missing, has another shape or is not finite."""
    dim, c, p, _ = state["patch_embed.proj.weight"].shape
    if dim % 4 or not depth:
        raise ValueError(f"a vision transformer of width {dim} with {depth} blocks cannot be")
    with torch.device("meta"):
        ours = ViT(ViTConfig(dim, depth, 1, p, (p, p), (0.5,) * c, (0.5,) * c))
    wanted = {name: [*t.shape] for name, t in ours.state_dict().items()}
    wanted["pos_embed"] = [1, max(2, *state["pos_embed"].shape[1:2]), dim]
    for name in sorted(state.keys() - wanted.keys()):
        raise ValueError(f"{name} is not part of a plain vision transformer, and without it another network is left")
    for name in sorted(wanted.keys() - state.keys() - {"cls_token"}):
        raise ValueError(f"{name} is missing")
    for name, t in state.items():
        if [*t.shape] != wanted[name]:
            raise ValueError(f"{name} is {[*t.shape]}, in a plain vision transformer of width {dim} {wanted[name]}")
        if not t.is_meta and not t.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def _whole_root(n: int) -> bool:
    return n > 0 and math.isqrt(n) ** 2 == n

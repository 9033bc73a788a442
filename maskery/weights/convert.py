"""Convert state dicts of other libraries to our names without changing what the network computes.

What our vision transformer cannot be is refused by name. timm, the official MAE and RC-MAE, DINO and MoCo v3 have our
names already. Hugging Face writes others, and has others again in memory; both are read.

D width, N patches
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
UNUSED = r"(heads?|head_dist|fc|classifier|pooler|pre_logits|attn_pool|dino_head|ibot_head|mask_token)(\.|$)"
UNSUPPORTED = (  # a pattern in the name of a tensor, and what it is
    (r"^(reg|register)_tokens?$", "register tokens"),
    (r"^dist_token$", "a distillation token"),
    (r"^(norm_pre|pre_layrnorm|ln_pre)\.", "a norm before its first block, as CLIP has it"),
    (r"^fc_norm\.", "a norm of averaged patches in the place of the last norm, as a fine-tuned MAE has it"),
    (r"\.[qk]_norm\.", "norms of queries and keys"),
    (r"\.mlp\.(w\d+|weights_in|weights_out|fc1_[gx]|gate|gate_proj)\.", "a gated MLP (SwiGLU)"),
    (r"rel_pos|relative_position", "relative positions"),
)


@dataclass(frozen=True)
class Metadata:
    """What no tensor says about a network; None where it is not known."""

    heads: int | None = None
    image_size: tuple[int, int] | None = None  # (height, width) in pixels
    mean: tuple[float, ...] | None = None  # per channel, of values in [0, 1]
    std: tuple[float, ...] | None = None
    eps: float = 1e-6  # of the norms
    decoder_heads: int | None = None


def encoder_tensors(raw: Mapping[str, Tensor], metadata: Metadata) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the tensors of an encoder to our names in float32; also returns what was done besides renaming.

    The class token may be missing, nothing else. ValueError names what our ViT cannot be.
    """
    state = _rename(raw)
    notes = _fold_layer_scale(state)
    unused = sorted({name.split(".")[0] for name in state if re.match(UNUSED, name)})
    state = {name: t for name, t in state.items() if not re.match(UNUSED, name)}
    _check_parts(state)
    kernel, depth = state["patch_embed.proj.weight"], count_blocks(state)
    if any(f"blocks.{i}.attn.qkv.bias" not in state for i in range(depth)):
        notes.append("zeros for biases that its queries, keys and values do not have")
        for i in range(depth):
            state.setdefault(f"blocks.{i}.attn.qkv.bias", kernel.new_zeros(3 * kernel.shape[0]))
    if _lacks_class_position(state["pos_embed"], kernel.shape[-1], metadata):
        state["pos_embed"] = F.pad(state["pos_embed"], (0, 0, 1, 0))
        notes.append("zeros for the position of the class token, which it does not have")
    _check_shapes(state, depth)
    return {k: t.float() for k, t in state.items()}, notes + ([f"{', '.join(unused)} left out"] if unused else [])


def decoder_tensors(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of an MAE decoder to the names of `nn.decoder.Decoder`; empty when there is none."""
    state = {name.removeprefix("decoder_"): t.float() for name, t in _rename(raw).items()}
    return state if "embed.weight" in state else {}


def vit_config(encoder: Mapping[str, Tensor], metadata: Metadata) -> tuple[ViTConfig, list[str]]:
    """The configuration of these tensors, and in words what had to be assumed. ValueError names what is not known."""
    dim, c, p, _ = encoder["patch_embed.proj.weight"].shape
    depth, notes = count_blocks(encoder), []
    heads = metadata.heads or HEADS.get(dim)
    if heads is None:
        raise ValueError(f"the number of heads does not follow from a width of {dim}: append #heads=N to the name")
    mean, std = normalisation(c, metadata)
    if mean is None or std is None:
        raise ValueError(
            f"how its {c} channels were normalised is not known: append #mean=M1:M2:...,std=S1:S2:... of values in "
            "[0, 1] to the name"
        )
    if (mean, std) != (metadata.mean, metadata.std):
        notes.append("how its images were normalised is not known: ImageNet's mean and std are taken")
    return ViTConfig(dim, depth, heads, p, image_size(encoder, metadata), mean, std), notes


def build_vit(config: ViTConfig, tensors: Mapping[str, Tensor], eps: float) -> ViT:
    """Build an encoder of these tensors, in eval mode on the CPU."""
    vit = ViT(config)
    vit.load_state_dict(tensors)
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return vit.eval()


def count_blocks(tensors: Mapping[str, Tensor]) -> int:
    """The number of transformer blocks that tensors under our names belong to."""
    return 1 + max((int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1)


def normalisation(c: int, metadata: Metadata) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of c channels from the metadata, else ImageNet's for three, else None."""
    if metadata.mean and metadata.std and len(metadata.mean) == len(metadata.std) == c:
        return metadata.mean, metadata.std
    return (IMAGENET_MEAN, IMAGENET_STD) if c == 3 else (None, None)


def image_size(encoder: Mapping[str, Tensor], metadata: Metadata) -> tuple[int, int]:
    """(height, width) in pixels of the images that the positions are for."""
    n, p = encoder["pos_embed"].shape[1] - 1, encoder["patch_embed.proj.weight"].shape[-1]
    if metadata.image_size and math.prod(length // p for length in metadata.image_size) == n:
        rows, columns = (length // p for length in metadata.image_size)  # a convolution ignores a rest
        return rows * p, columns * p
    if not _is_square(n):
        stated = " and not those of {} x {} pixels".format(*metadata.image_size) if metadata.image_size else ""
        raise ValueError(
            f"its {n} positions are not a square{stated}: append the size of its images to the name, #size=HEIGHTxWIDTH"
        )
    return math.isqrt(n) * p, math.isqrt(n) * p


def _rename(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, t in raw.items():
        for pattern, ours in HUGGING_FACE:
            name = re.sub(pattern, ours, name)
        if name in state:
            raise ValueError(f"two tensors would be {name}")
        state[name] = t
    separate = {re.sub(r"[qkv]\.(weight|bias)$", "", name) for name in state if re.search(r"attn\.[qkv]\.", name)}
    for block in sorted(separate):  # "blocks.0.attn."
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


def _lacks_class_position(table: Tensor, p: int, metadata: Metadata) -> bool:
    """Whether the position table [1, N or 1 + N, D] has no row for the class token."""
    if table.ndim != 3:
        return False
    n = table.shape[1]
    if metadata.image_size and (patches := math.prod(length // p for length in metadata.image_size)) in (n, n - 1):
        return patches == n
    return _is_square(n) and not _is_square(n - 1)


def _check_parts(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a part that a plain vision transformer does not have, or one that is missing."""
    for pattern, what in UNSUPPORTED:
        for name in state:
            if re.search(pattern, name):
                raise ValueError(f"the network has {what} ({name}), which a plain vision transformer has not")
    kernel = state["patch_embed.proj.weight"]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(f"patch_embed.proj.weight is {list(kernel.shape)}: patches have to be square, [D, C, p, p]")
    if "pos_embed" not in state:
        raise ValueError("the network has no table of positions (pos_embed), which a plain vision transformer has")


def _check_shapes(state: Mapping[str, Tensor], depth: int) -> None:
    """Raise ValueError when a tensor is not in our ViT of this size, is missing, has another shape or is not finite."""
    dim, c, p, _ = state["patch_embed.proj.weight"].shape
    if dim % 4 or not depth:
        raise ValueError(f"a vision transformer of width {dim} with {depth} blocks cannot be")
    with torch.device("meta"):
        ours = ViT(ViTConfig(dim, depth, 1, p, (p, p), (0.5,) * c, (0.5,) * c))
    shapes = {name: [*t.shape] for name, t in ours.state_dict().items()}
    shapes["pos_embed"] = [1, max(2, *state["pos_embed"].shape[1:2]), dim]
    for name in sorted(state.keys() - shapes.keys()):
        raise ValueError(f"{name} is not part of a plain vision transformer, and without it another network is left")
    for name in sorted(shapes.keys() - state.keys() - {"cls_token"}):
        raise ValueError(f"{name} is missing")
    for name, t in state.items():
        if [*t.shape] != shapes[name]:
            raise ValueError(f"{name} is {[*t.shape]}, in a plain vision transformer of width {dim} {shapes[name]}")
        if not t.is_meta and not t.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def _is_square(n: int) -> bool:
    return n > 0 and math.isqrt(n) ** 2 == n

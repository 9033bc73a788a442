"""Vision transformers of timm by name, with weights from the hub, from a file, or random: as teachers, to start from.

B batch, C channels, N patches, S tokens (class token, registers, patches), D width, d width of a head
"""

import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.layers import PatchEmbed
from timm.models import get_pretrained_cfg, load_state_dict
from timm.models.vision_transformer import Attention, Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from ..nn.vit import ViT, class_attention


def names() -> set[str]:
    """What timm has, with and without the names of weights."""
    return {*timm.list_models(), *timm.list_pretrained()}


class TimmViT(nn.Module):
    """A VisionTransformer that can be asked where its class token looks."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.mean, self.std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        self.channels, self.patch_size, self.dim = len(self.mean), model.patch_embed.patch_size[0], model.embed_dim

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `ViT.attend`: normalised images [B, C, H, W] -> tokens after the last norm [B, S, D], attention [B, N]."""
        attention, seen = self.model.blocks[-1].attn, {}
        hooks = [  # q and k as the last block's attention uses them, [B, heads, S, d]; their norms may do nothing
            attention.q_norm.register_forward_hook(lambda module, args, q: seen.update(q=q)),
            attention.k_norm.register_forward_hook(lambda module, args, k: seen.update(k=k)),
        ]
        try:
            tokens = self.model.forward_features(x)
        finally:
            for hook in hooks:
                hook.remove()
        return tokens, class_attention(seen["q"][:, :, 0], seen["k"], self.model.num_prefix_tokens)


def sketch(name: str) -> TimmViT:
    """The model without weights. ValueError when nobody can read from it where its class token looks."""
    model = without_weights(name)
    if not _readable(model):
        raise ValueError(
            f"the teacher {name} cannot be asked where it looks: a VisionTransformer of timm with a class token and "
            "ordinary attention is needed, like vit_base_patch16_clip_quickgelu_224.openai"
        )
    return TimmViT(model)


def load(name: str, size: tuple[int, int], weights: str | None, random: bool) -> tuple[TimmViT, str]:
    """The model for images of this (height, width), and in words what it is. ValueError when there are no weights."""
    shape = {"num_classes": 0, "img_size": size, "dynamic_img_size": True}
    if random:
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPUs, too
        what = "RANDOM WEIGHTS, which know nothing of images"
        return TimmViT(timm.create_model(name, **shape)), f"timm's {name} with {what}"
    if weights:
        return TimmViT(_from_file(name, weights, shape)), f"timm's {name} with the weights in {weights}"
    model, source = _from_hub(name, shape, f"the teacher {name}", "the file, --settings.teacher-weights FILE")
    return TimmViT(model), f"timm's {name} with its weights from {source}"


def load_model(name: str, random: bool) -> tuple[Any, str]:
    """Load the model in its own image size and without a head; also returns what it is. ValueError as `load`."""
    if random:
        torch.default_generator.manual_seed(0)
        return timm.create_model(name, num_classes=0), "RANDOM WEIGHTS, which know nothing of images"
    model, source = _from_hub(name, {"num_classes": 0}, f"timm's {name}", "the file instead")
    return model, f"weights from {source}"


def without_weights(name: str) -> Any:
    """The model without memory and without a head."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def heads(name: str) -> int | None:
    """Of the model's attention; None when timm does not know the model or it is no plain vision transformer."""
    if name not in names() or not _in_turn(model := without_weights(name)):
        return None
    return model.blocks[0].attn.num_heads


def is_plain(model: Any) -> bool:
    """Whether blocks and activation are ours: names of tensors show neither rotary positions nor GELU by tanh."""
    return _in_turn(model) and isinstance(model.blocks[-1].mlp.act, nn.GELU)


@torch.no_grad()
def difference(ours: ViT, model: Any) -> float:
    """The largest difference of the tokens of an image, relative to the largest token value."""
    images = torch.rand(1, ours.config.channels, *ours.config.image_size, generator=torch.Generator().manual_seed(0))
    tokens = ours.eval().encode(ours.normalise(images))
    theirs = model.eval().forward_features(ours.normalise(images))
    return float((tokens - theirs).abs().max() / theirs.abs().max())


def _readable(model: nn.Module) -> bool:
    """A class token, square patches, and attention whose q and k can be read."""
    if not isinstance(model, VisionTransformer) or model.cls_token is None:
        return False
    embed = model.patch_embed
    return isinstance(embed, PatchEmbed) and embed.patch_size[0] == embed.patch_size[1] and _in_turn(model)


def _in_turn(model: nn.Module) -> bool:
    """Whether its blocks are ordinary ones, one after the other."""
    if not isinstance(model, VisionTransformer):
        return False
    block = model.blocks[-1]
    return isinstance(block, Block) and isinstance(block.attn, Attention)


def _from_file(name: str, weights: str, shape: dict[str, Any]) -> nn.Module:
    """timm reads and converts the file. What the file lacks timm would leave at random without a word."""
    if not Path(weights).is_file():
        raise ValueError(f"--settings.teacher-weights {weights}: there is no such file")
    try:
        given = load_state_dict(weights, weights_only=True)
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": weights}, **shape)
        found = checkpoint_filter_fn(given, model, adapt_layer_scale=True)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, EOFError, SafetensorError) as e:
        raise ValueError(f"{weights}: not the weights of {name}: {_line(e)}") from e
    own = model.state_dict().keys()
    wrong = [f"{k} is missing" for k in own - found.keys()]
    wrong += [f"{k} is not in this model" for k in found.keys() - own if k.startswith("blocks.")]  # heads may be there
    if wrong:
        raise ValueError(f"{weights}: not the weights of {name}: {min(wrong)}")
    return model


def _from_hub(name: str, shape: dict[str, Any], what: str, instead: str) -> tuple[nn.Module, str]:
    """The pretrained model, from the hub's cache or downloaded, and where its weights are from.

    `what` it is to a person, who can name `instead` when there are none.
    """
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"there are no weights of {what}: name {instead}")
    page = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)
    absent = (
        f"the weights of {what} are not on this machine and cannot be downloaded: get them from {page} and "
        f"name {instead}"
    )
    if cfg.hf_hub_id and not _cached(cfg.hf_hub_id, cfg.hf_hub_filename) and not _answers(constants.ENDPOINT):
        raise ValueError(absent)  # known before asking the hub's client, which would try for a minute
    try:
        model = timm.create_model(name, pretrained=True, **shape)
    except OSError as e:  # a download's ways to fail, and a hub that was told to stay offline
        raise ValueError(f"{absent} ({_line(e)})") from e
    return model, page + (f" (timm remarks: {'; '.join(cfg.notes)})" if cfg.notes else "")


def _cached(repository: str, filename: str | None) -> bool:
    repository, _, revision = repository.partition("@")
    files = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(repository, f, revision=revision or None), str) for f in files)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as e:
        return isinstance(e.reason, ssl.SSLError)  # somebody is there; the hub's client has its own certificates
    except OSError:
        return False
    return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__

"""Load vision transformers of timm by name, with weights from the hub, from a file, or random.

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
from ..text import one_line


def names() -> set[str]:
    """The names of timm's models, with and without those of weights."""
    return {*timm.list_models(), *timm.list_pretrained()}


class TimmViT(nn.Module):
    """A VisionTransformer that also gives the attention of its class token."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.mean, self.std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        self.channels, self.patch_size, self.dim = len(self.mean), model.patch_embed.patch_size[0], model.embed_dim

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `ViT.attend`: normalised images [B, C, H, W] -> tokens after the last norm [B, S, D], attention [B, N]."""
        attention, inputs = self.model.blocks[-1].attn, {}
        hooks = [  # q and k as the last block's attention uses them, [B, heads, S, d]; their norms may do nothing
            attention.q_norm.register_forward_hook(lambda module, args, q: inputs.update(q=q)),
            attention.k_norm.register_forward_hook(lambda module, args, k: inputs.update(k=k)),
        ]
        try:
            tokens = self.model.forward_features(x)
        finally:
            for hook in hooks:
                hook.remove()
        return tokens, class_attention(inputs["q"][:, :, 0], inputs["k"], self.model.num_prefix_tokens)


def empty_teacher(name: str) -> TimmViT:
    """A teacher without weights. ValueError when the attention of its class token cannot be read."""
    model = without_weights(name)
    embed = getattr(model, "patch_embed", None)
    square = isinstance(embed, PatchEmbed) and embed.patch_size[0] == embed.patch_size[1]
    if not square or not _has_plain_blocks(model) or model.cls_token is None:
        raise ValueError(
            f"the teacher {name} cannot be asked where it looks: a VisionTransformer of timm with a class token and "
            "ordinary attention is needed, like vit_base_patch16_clip_quickgelu_224.openai"
        )
    return TimmViT(model)


def load_teacher(name: str, size: tuple[int, int], weights: str | None, random: bool) -> tuple[TimmViT, str]:
    """Load a teacher for images of this (height, width); also returns a description. ValueError without weights."""
    options = {"img_size": size, "dynamic_img_size": True}
    if weights and not random:
        return TimmViT(_from_file(name, weights, options)), f"timm's {name} with the weights in {weights}"
    subject, alternative = f"the teacher {name}", "the file, --settings.teacher-weights FILE"
    model, origin = _create(name, random, subject, alternative, **options)
    return TimmViT(model), f"timm's {name} with {'' if random else 'its '}{origin}"


def load_model(name: str, random: bool) -> tuple[Any, str]:
    """Load a model in its own image size, without a head; also returns where its weights are from."""
    return _create(name, random, f"timm's {name}", "the file instead")


def _create(name: str, random: bool, subject: str, alternative: str, **options: Any) -> tuple[Any, str]:
    if not random:
        model, page = _from_hub(name, subject, alternative, options)
        return model, f"weights from {page}"
    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPUs, too
    return timm.create_model(name, num_classes=0, **options), "RANDOM WEIGHTS, which know nothing of images"


def without_weights(name: str) -> Any:
    """The model on the meta device, without a head."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def heads(name: str) -> int | None:
    """The number of attention heads; None for what is no plain vision transformer of timm."""
    model: Any = without_weights(name) if name in names() else None
    return model.blocks[0].attn.num_heads if _has_plain_blocks(model) else None


def is_plain(model: Any) -> bool:
    """Whether blocks and activation are ours: names of tensors show neither rotary positions nor GELU by tanh."""
    return _has_plain_blocks(model) and isinstance(model.blocks[-1].mlp.act, nn.GELU)


@torch.no_grad()
def difference(ours: ViT, model: Any) -> float:
    """The largest difference of the tokens of an image, relative to the largest token value."""
    images = torch.rand(1, ours.config.channels, *ours.config.image_size, generator=torch.Generator().manual_seed(0))
    tokens = ours.eval().encode(ours.normalise(images))
    theirs = model.eval().forward_features(ours.normalise(images))
    return float((tokens - theirs).abs().max() / theirs.abs().max())


def _has_plain_blocks(model: Any) -> bool:
    """Whether it is a VisionTransformer of ordinary blocks, one after the other."""
    if not isinstance(model, VisionTransformer):
        return False
    block = model.blocks[-1]
    return isinstance(block, Block) and isinstance(block.attn, Attention)


def _from_file(name: str, weights: str, options: dict[str, Any]) -> nn.Module:
    """Load a file, which timm reads and converts. ValueError when it lacks tensors, which timm would leave random."""
    if not Path(weights).is_file():
        raise ValueError(f"--settings.teacher-weights {weights}: there is no such file")
    try:
        raw, overlay = load_state_dict(weights, weights_only=True), {"file": weights}
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
        converted = checkpoint_filter_fn(raw, model, adapt_layer_scale=True)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, EOFError, SafetensorError) as e:
        raise ValueError(f"{weights}: not the weights of {name}: {one_line(e)}") from e
    own = model.state_dict().keys()
    wrong = [f"{k} is missing" for k in own - converted.keys()]
    wrong += [f"{k} is not in this model" for k in converted.keys() - own if k.startswith("blocks.")]  # heads may be
    if wrong:
        raise ValueError(f"{weights}: not the weights of {name}: {min(wrong)}")
    return model


def _from_hub(name: str, subject: str, alternative: str, options: dict[str, Any]) -> tuple[nn.Module, str]:
    """Load pretrained weights from the hub's cache or the hub; also returns their page. ValueError without them."""
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"there are no weights of {subject}: name {alternative}")
    page = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)
    absent = (
        f"the weights of {subject} are not on this machine and cannot be downloaded: get them from {page} and "
        f"name {alternative}"
    )
    if cfg.hf_hub_id and not _is_cached(cfg.hf_hub_id, cfg.hf_hub_filename) and not _responds(constants.ENDPOINT):
        raise ValueError(absent)  # before the hub's client tries for a minute
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except OSError as e:  # downloads that fail, and a hub that was told to stay offline
        raise ValueError(f"{absent} ({one_line(e)})") from e
    return model, page + (f" (timm remarks: {'; '.join(cfg.notes)})" if cfg.notes else "")


def _is_cached(repository: str, filename: str | None) -> bool:
    repository, _, revision = repository.partition("@")
    files = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(repository, f, revision=revision or None), str) for f in files)


def _responds(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as e:
        return isinstance(e.reason, ssl.SSLError)  # a server is there; the hub's client has its own certificates
    except OSError:
        return False
    return True

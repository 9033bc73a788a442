"""Load weights from anywhere: an encoder to evaluate or export, or a start for training. WHERE: `locate.py`."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ImagesConfig
from ..nn.vit import SIZES, Size, ViT, ViTConfig
from ..objective import Objective
from ..runs.directory import is_run, open_run
from . import adapt, convert
from .locate import Weights, open_weights, parse_where
from .read import decoder_beside, network_name


def load_encoder(where: Path, say: Callable[[str], None] = print) -> ViT:
    """Load the encoder at WHERE in eval mode, on the CPU; `say` gets what had to be done and assumed.

    ValueError in one line when there is none, its files are damaged, or our vision transformer cannot be what it is.
    """
    return build_encoder(open_weights(where), say)


def build_encoder(weights: Weights, say: Callable[[str], None] = print) -> ViT:
    """Build the encoder of opened weights, as `load_encoder` does."""
    where = weights.where
    tensors, notes = weights.encoder(weights.part)
    if "cls_token" not in tensors:
        raise ValueError(f"{where}: the network has no class token; only --init can do without")
    try:
        config, assumptions = convert.vit_config(tensors, weights.metadata)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    for note in (*weights.notes, *notes, *assumptions):
        say(f"{where}: {note}")
    return convert.build_vit(config, tensors, weights.metadata.eps)


def image_config(where: Path) -> ImagesConfig | None:
    """How the images of the run at WHERE were read; None when it is no run."""
    path = parse_where(where).path
    return open_run(path).run.images if is_run(path) else None


def start_from(objective: Objective, where: Path) -> str:
    """Load weights into a new objective; returns what was loaded, adapted and left at random.

    A student begins as the student there, a teacher as the teacher; where there is but one network, all begin as that.
    """
    weights, own = open_weights(where), objective.state_dict()
    given = {} if objective.labelled else dict(weights.networks[weights.part].others)  # heads of labels are new
    changes, misfits, parts = [], {}, set()
    for prefix in objective.encoders:
        part = network_name(prefix)
        part = part if part in weights.networks and not weights.named else weights.part
        parts.add(part)
        tensors, changed, reason = _fit(objective, prefix, weights, part)
        given |= tensors
        changes += changed
        misfits[decoder_beside(prefix).removesuffix(".")] = reason

    loaded = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    objective.load_state_dict(loaded, strict=False)
    known = {name for name in own if name in loaded or name.startswith(objective.pretrained_prefixes)}
    random = dict.fromkeys(_largest_part(name, known) for name in own if name not in known)
    random = [f"{name} ({misfits[name]})" if misfits.get(name) else name for name in random]
    if weights.metadata.eps != 1e-6:
        changes.append(f"eps of norms {weights.metadata.eps:g} -> 1e-06")
    notes = f" ({', '.join(weights.notes)})" if weights.notes and parts == {weights.part} else ""
    return (
        f"started from {where}{notes}: loaded {len(loaded)} of {len(own)} tensors"
        + (f"; adapted: {', '.join(dict.fromkeys(changes))}" if changes else "")
        + (f"; at random: {', '.join(random)}" if random else "")
    )


def _fit(objective: Objective, prefix: str, weights: Weights, part: str) -> tuple[dict[str, Tensor], list[str], str]:
    """Adapt a network to the encoder at `prefix` and its decoder: tensors, changes, why the decoder does not fit."""
    vit = objective.encoder.config
    encoder, notes = weights.encoder(part)
    _check_size(weights, encoder, vit)
    try:
        encoder, grid, changes = adapt.encoder(encoder, weights.metadata, vit)
    except ValueError as e:
        raise ValueError(f"{weights.where}: {e}") from e
    tensors, reason = {prefix + name: t for name, t in encoder.items()}, ""

    beside = decoder_beside(prefix)
    own = {name.removeprefix(beside): t for name, t in objective.state_dict().items() if name.startswith(beside)}
    decoder = convert.decoder_tensors(weights.networks[part].decoder)
    if own and decoder:
        heads: Any = objective.get_submodule(f"{beside}blocks.0.attn").heads
        decoder, reason = adapt.decoder(decoder, own, (grid, vit.grid), (weights.metadata.decoder_heads, heads))
        tensors |= {beside + name: t for name, t in decoder.items()}
    return tensors, [*notes, *changes], reason


def _check_size(weights: Weights, encoder: Mapping[str, Tensor], vit: ViTConfig) -> None:
    """Raise ValueError when width, depth or heads are not those of the run: nothing can adapt them."""
    dim, depth = encoder[adapt.KERNEL].shape[0], convert.count_blocks(encoder)
    heads = weights.metadata.heads or convert.HEADS.get(dim) or vit.heads
    if (dim, depth, heads) != (vit.dim, vit.depth, vit.heads):
        model = next((name for name, size in SIZES.items() if size == Size(dim, depth, heads)), None)
        raise ValueError(
            f"{weights.where}: its encoder is not the one of this run: width {dim}, {depth} blocks, {heads} heads; "
            f"this run needs width {vit.dim}, {vit.depth} blocks, {vit.heads} heads"
            + (f" (--model {model} is theirs)" if model else "")
        )


def _largest_part(name: str, known: Collection[str]) -> str:
    """The largest submodule that this tensor is in and no known tensor."""
    steps = name.split(".")
    parts = (".".join(steps[: i + 1]) for i in range(len(steps)))
    return next((part for part in parts if not any(other.startswith(part + ".") for other in known)), name)

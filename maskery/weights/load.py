"""Weights in, from anywhere: to look at, to export, to start from. What can be said for WHERE: `places.py`."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ..config import ImagesConfig
from ..nn.vit import SIZES, Size, ViT, ViTConfig
from ..objective import Objective
from ..runs.directory import is_run, objective_state, run_from, run_of
from . import adapt, convert
from .locate import Weights, asked_for, built, open_weights
from .read import decoder_beside, part_of

V = TypeVar("V", bound=ViT)

__all__ = [
    "encoder_of",
    "images_of",
    "load_encoder",
    "objective_state",
    "open_weights",
    "run_from",
    "run_of",
    "start_from",
]


def load_encoder(where: Path, say: Callable[[str], None] = print) -> ViT:
    """The encoder at WHERE, in eval mode, on the CPU; what had to be done and assumed for it is said.

    ValueError in one line when there is none, its files are damaged, or our vision transformer cannot be what it is.
    """
    return encoder_of(open_weights(where), say)


def encoder_of(weights: Weights, say: Callable[[str], None] = print, kind: type[V] = ViT) -> V:
    """As `load_encoder`, of weights that are open."""
    where = weights.where
    state, notes = weights.encoder(weights.part)
    if "cls_token" not in state:
        raise ValueError(f"{where}: the network has no class token; only --init can do without")
    try:
        config, assumed = convert.config_of(state, weights.facts)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    for note in (*weights.notes, *notes, *assumed):
        say(f"{where}: {note}")
    return built(config, state, weights.facts.eps, kind)


def start_from(objective: Objective, where: Path) -> str:
    """Load weights into a new objective before its first step; says what was loaded, adapted and left at random.

    A student begins as the student there, a teacher as the teacher; where there is but one network, all begin as that.
    """
    weights, own, to = open_weights(where), objective.state_dict(), objective.encoder.config
    given = {} if objective.labelled else dict(weights.networks[weights.part].others)  # heads of labels are new
    changed, odd, used = [], {}, set()
    for prefix in objective.encoders:
        part = part_of(prefix)
        part = part if part in weights.networks and not weights.asked else weights.part
        used.add(part)
        encoder, notes = weights.encoder(part)
        _refuse_another_size(weights, encoder, to)
        try:
            encoder, grid, how = adapt.encoder(encoder, weights.facts, to)
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from e
        given |= {prefix + name: t for name, t in encoder.items()}
        changed += [*notes, *how]

        beside = decoder_beside(prefix)
        decoder = {name.removeprefix(beside): t for name, t in own.items() if name.startswith(beside)}
        theirs = convert.decoder_names(weights.networks[part].decoder)
        if decoder and theirs:
            heads: Any = objective.get_submodule(f"{beside}blocks.0.attn").heads
            taken, reason = adapt.decoder(theirs, decoder, grid, to.grid, (weights.facts.decoder_heads, heads))
            given |= {beside + name: t for name, t in taken.items()}
            odd[beside.removesuffix(".")] = reason

    fits = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    objective.load_state_dict(fits, strict=False)
    there = {name for name in own if name in fits or name.startswith(objective.pretrained_prefixes)}
    rest = dict.fromkeys(_part(name, there) for name in own if name not in there)
    rest = [f"{name} ({odd[name]})" if odd.get(name) else name for name in rest]
    if weights.facts.eps != 1e-6:
        changed.append(f"eps of norms {weights.facts.eps:g} -> 1e-06")
    said = f" ({', '.join(weights.notes)})" if weights.notes and used == {weights.part} else ""
    return (
        f"started from {where}{said}: loaded {len(fits)} of {len(own)} tensors"
        + (f"; adapted: {', '.join(dict.fromkeys(changed))}" if changed else "")
        + (f"; at random: {', '.join(rest)}" if rest else "")
    )


def images_of(where: Path) -> ImagesConfig | None:
    """How the images of the run at WHERE were read; None when it is no run and nobody knows."""
    place = Path(asked_for(str(where))[0])
    return run_of(place).images if is_run(place) else None


def _refuse_another_size(weights: Weights, encoder: Mapping[str, Tensor], to: ViTConfig) -> None:
    """ValueError when width, depth or heads are not those of the run: nothing can adapt them."""
    dim, depth = encoder[adapt.KERNEL].shape[0], convert.depth_of(encoder)
    heads = weights.facts.heads or convert.HEADS.get(dim) or to.heads
    if (dim, depth, heads) != (to.dim, to.depth, to.heads):
        model = next((name for name, size in SIZES.items() if size == Size(dim, depth, heads)), None)
        raise ValueError(
            f"{weights.where}: its encoder is not the one of this run: width {dim}, {depth} blocks, {heads} heads; "
            f"this run needs width {to.dim}, {to.depth} blocks, {to.heads} heads"
            + (f" (--model {model} is theirs)" if model else "")
        )


def _part(name: str, there: Collection[str]) -> str:
    """The largest part of a model that this tensor is in and none of those that are there."""
    steps = name.split(".")
    parts = (".".join(steps[: i + 1]) for i in range(len(steps)))
    return next((p for p in parts if not any(f.startswith(p + ".") for f in there)), name)

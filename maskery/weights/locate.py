"""Where weights are: the one reader of what people write for WHERE.

WHERE is a place, and after # what is wanted of it or what nothing there says:

RUN, RUN/checkpoints/STEP     a run (its newest good checkpoint; what learned from labels where it was best), or one of
                              its checkpoints
DIRECTORY                     what `maskery export`, timm or Hugging Face wrote
FILE                          .safetensors, or what torch.save wrote: a state dict, or a training checkpoint with some
timm:NAME, random:NAME        a model of timm, with its pretrained weights or with random ones
...#teacher                   of several networks this one
...#heads=6,size=64x32        the number of heads, height and width of the images; mean=M1:M2:M3, std=S1:S2:S3
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..nn.decoder import DecoderSize
from ..nn.vit import ViT, ViTConfig
from ..objectives import OBJECTIVES
from ..runs.best import best_of
from ..runs.directory import is_run, objective_state, run_of
from . import convert
from .convert import Facts
from .read import FILES, Found, facts_in, networks, part_of, tensors_in, tensors_of

V = TypeVar("V", bound=ViT)
TIMM, RANDOM = "timm:", "random:"
PREFERRED = ("teacher", "model_ema", "state_dict_ema", "")  # the averages are what their authors evaluate
TOLERANCE = 1e-4  # of the tokens of a timm model, relative to the largest


@dataclass(frozen=True)
class Weights:
    """What was found at one place: the encoder to take, and what else a run can start from."""

    where: str
    networks: Mapping[str, Found]  # by what tells them apart
    part: str  # the one to take
    facts: Facts
    asked: bool = False  # whether somebody asked for that part
    notes: tuple[str, ...] = ()

    def encoder(self, part: str) -> tuple[dict[str, Tensor], list[str]]:
        """One network's tensors under our names, and what was done to them. ValueError names what cannot be."""
        try:
            return convert.encoder_names(self.networks[part].encoder, self.facts)
        except ValueError as e:
            raise ValueError(f"{self.where}: {e}") from e


def open_weights(where: Path) -> Weights:
    """What is at WHERE. ValueError in one line when there are no weights, or several and it is not clear which."""
    text, asked, said = asked_for(str(where))
    place = Path(text)
    if text.startswith((TIMM, RANDOM)):
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # as reading a file would
            return _from_timm(text, str(where), said)
    if place.is_file() and (place.parent / "state.json").exists():
        place = place.parent  # model.safetensors of a checkpoint
    part = None
    if is_run(place):
        run = run_of(place)
        vit, part = run.vit(), part_of(OBJECTIVES[run.method].encoders[0])
        # What learned from labels is what was measured: the best, where one was kept.
        tree = objective_state((best_of(place) if OBJECTIVES[run.method].labelled else None) or place)
        facts = Facts(vit.heads, vit.image_size, vit.mean, vit.std, decoder_heads=_decoder_heads(run.settings))
    elif (place / "config.json").exists():
        tree, facts = tensors_of(place), facts_in(place)
    elif place.is_file():
        tree, facts = tensors_in(place), facts_in(place.parent) if place.name in FILES else Facts()
    elif not place.exists():
        raise ValueError(f"{place}: there is nothing; a run, a file or directory of weights, or timm:NAME is wanted")
    else:
        raise ValueError(f"{place}: neither a run, nor a checkpoint, nor an exported directory")
    found = networks(tree)
    if not found:
        raise ValueError(f"{place}: no vision transformer is in there ({_some(tree)})")
    notes = ()
    if asked is not None or part is None:
        part = _choose(str(place), found, asked)
        names = ", ".join(name or "one without a name" for name in found)
        taken = f"the {part or 'one without a name'} is taken, of {names}: #NAME takes another"
        notes = (taken,) if len(found) > 1 and asked is None else ()
    return Weights(str(where), found, part, replace(facts, **said), asked is not None, notes)


def _decoder_heads(settings: Any) -> int | None:
    """Of a method that has a decoder as MAE has it."""
    size = {f.name: getattr(settings, f.name) for f in fields(settings)}.get("decoder")
    return size.heads if isinstance(size, DecoderSize) else None


def built(config: ViTConfig, state: Mapping[str, Tensor], eps: float, kind: type[V] = ViT) -> V:
    """The encoder of these tensors, in eval mode on the CPU."""
    encoder = kind(config)
    encoder.load_state_dict(state)
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return encoder.eval()


def asked_for(where: str) -> tuple[str, str | None, dict[str, Any]]:
    """The place, the network that is asked for, and the facts that are said, of PLACE#WORDS."""
    if "#" not in where or Path(where).exists():
        return where, None, {}
    place, _, words = where.rpartition("#")
    part, said = None, {}
    for word in words.split(","):
        name, equals, value = word.partition("=")
        try:
            if not equals:
                part = word
            elif name == "heads":
                said["heads"] = int(value)
            elif name == "size":
                height, width = map(int, value.split("x"))
                said["image_size"] = (height, width)
            elif name in ("mean", "std"):
                said[name] = tuple(map(float, value.split(":")))
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{where}: after # stand the name of a network, heads=N, size=HEIGHTxWIDTH, mean=M1:M2:M3 or "
                f"std=S1:S2:S3, not {word!r}"
            ) from None
    return place, part, said


def _choose(where: str, found: Mapping[str, Found], asked: str | None) -> str:
    if asked is not None and part_of(asked) in found:  # "encoder" is the network that nothing else tells apart
        return part_of(asked)
    names = ", ".join(f"{where}#{name}" for name in found)
    if asked is not None:
        raise ValueError(f"{where}: there is no network {asked!r} in there; there are: {names}")
    if len(found) == 1:
        return next(iter(found))
    best = next((name for name in PREFERRED if name in found), None)
    if best is None:
        raise ValueError(f"{where}: there are several networks in there, name one: {names}")
    return best


def _from_timm(text: str, where: str, said: dict[str, Any]) -> Weights:
    """A model of timm by name. That ours is the same shows before the download, and once more on an image."""
    from . import timm  # timm takes seconds to import

    kind, _, name = text.partition(":")
    if name not in timm.names():
        near = difflib.get_close_matches(name, timm.names(), 1)
        raise ValueError(f"{where}: timm has no model {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    model = timm.without_weights(name)
    sketch = Weights(where, networks(model.state_dict()), "", Facts())
    if "" not in sketch.networks:
        raise ValueError(f"{where}: {name} is not a vision transformer as ours is")
    sketch.encoder("")
    if not timm.is_plain(model):
        raise ValueError(f"{where}: {name} computes something else than a plain vision transformer")
    model, what = timm.whole(name, random=f"{kind}:" == RANDOM)
    cfg = model.pretrained_cfg
    heads, size = model.blocks[0].attn.num_heads, model.patch_embed.img_size
    facts = Facts(heads, size, tuple(cfg["mean"]), tuple(cfg["std"]), model.norm.eps)
    weights = Weights(where, networks(model.state_dict()), "", replace(facts, **said), notes=(what,))
    state, _ = weights.encoder("")
    if "cls_token" in state:
        config, _ = convert.config_of(state, weights.facts)
        difference = timm.difference(built(config, state, weights.facts.eps), model)
        if not difference <= TOLERANCE:
            raise ValueError(f"{where}: ours is not what {name} is: their tokens differ by {difference:.1e}")
    return weights


def _some(tree: Mapping[Any, Any]) -> str:
    names = [str(name) for name in tree]
    return f"it has {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "it is empty"

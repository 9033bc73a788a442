"""Open weights by what people write for WHERE.

WHERE is a place, and after # which of its networks is meant, or what no file there says:

RUN, RUN/checkpoints/STEP     a run (its newest good checkpoint; of a task that learns from labels the best), or one of
                              its checkpoints
DIRECTORY                     what `maskery export`, timm or Hugging Face wrote
FILE                          .safetensors, or what torch.save wrote: a state dict, or a training checkpoint with some
timm:NAME, random:NAME        a model of timm, with its pretrained weights or with random ones
...#teacher                   this one of several networks
...#heads=6,size=64x32        the number of heads, height and width of the images; mean=M1:M2:M3, std=S1:S2:S3
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ..config import ImagesConfig
from ..nn.decoder import DecoderSize
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory, is_run, open_run
from . import convert
from .convert import Metadata, build_vit
from .read import FILES, Network, network_name, networks, read_directory, read_metadata, read_tensors

TIMM, RANDOM = "timm:", "random:"
PREFERRED = ("teacher", "model_ema", "state_dict_ema", "")  # the averages are what their authors evaluate
TOLERANCE = 1e-4  # of the tokens of a timm model, relative to the largest


class Where(NamedTuple):
    """The parts of PLACE#WORDS."""

    place: str
    network: str | None  # the name of the wanted network
    metadata: dict[str, Any]  # what overrides the files

    @property
    def path(self) -> Path:
        return Path(self.place)


@dataclass(frozen=True)
class Weights:
    """The networks at one place, and which of them is the encoder to use."""

    where: str
    networks: Mapping[str, Network]  # by what tells them apart
    part: str  # the one to use
    metadata: Metadata
    named: bool = False  # whether WHERE named that network
    notes: tuple[str, ...] = ()
    run: RunDirectory | None = None  # where the place is a run or a checkpoint

    @property
    def images(self) -> ImagesConfig | None:
        """How the images of the run were read; None without a run."""
        return self.run.run.images if self.run else None

    def encoder(self, part: str) -> tuple[dict[str, Tensor], list[str]]:
        """Convert one network's tensors to our names; also returns what was done to them. ValueError if impossible."""
        try:
            return convert.encoder_tensors(self.networks[part].encoder, self.metadata)
        except ValueError as e:
            raise ValueError(f"{self.where}: {e}") from e

    def with_encoder(self, tensors: dict[str, Tensor]) -> Self:
        """The same with other tensors of the encoder to use, and no other network."""
        return replace(self, networks={self.part: replace(self.networks[self.part], encoder=tensors)})


def parse_where(where: str | Path) -> Where:
    """Split PLACE#WORDS. ValueError when a word is not understood."""
    text = str(where)
    if "#" not in text or Path(text).exists():
        return Where(text, None, {})
    place, _, words = text.rpartition("#")
    network, metadata = None, {}
    for word in words.split(","):
        name, equals, value = word.partition("=")
        try:
            if not equals:
                network = word
            elif name == "heads":
                metadata["heads"] = int(value)
            elif name == "size":
                height, width = map(int, value.split("x"))
                metadata["image_size"] = (height, width)
            elif name in ("mean", "std"):
                metadata[name] = tuple(map(float, value.split(":")))
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{text}: after # stand the name of a network, heads=N, size=HEIGHTxWIDTH, mean=M1:M2:M3 or "
                f"std=S1:S2:S3, not {word!r}"
            ) from None
    return Where(place, network, metadata)


def open_weights(where: Path) -> Weights:
    """Open the weights at WHERE. ValueError in one line when there are none, or it is not clear which are meant."""
    parsed = parse_where(where)
    place, part, run = parsed.path, None, None
    if parsed.place.startswith((TIMM, RANDOM)):
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # as if a file were read
            return _open_timm(parsed, str(where))
    if place.is_file() and (place.parent / "state.json").exists():
        place = place.parent  # model.safetensors of a checkpoint
    if is_run(place):
        run = open_run(place)
        objective = OBJECTIVES[run.run.method]
        part = network_name(objective.encoders[0])
        # What learned from labels was measured where it was best.
        tensors, metadata = run.tensors(best=objective.labelled), _run_metadata(run)
    else:
        tensors, metadata = _read_files(place)
    candidates = networks(tensors)
    if not candidates:
        raise ValueError(f"{place}: no vision transformer: {_summary(tensors)}")
    notes = ()
    if parsed.network is not None or part is None:
        part = _choose(str(place), candidates, parsed.network)
        names = ", ".join(name or "one without a name" for name in candidates)
        choice = f"the {part or 'one without a name'} is taken, of {names}: #NAME takes another"
        notes = (choice,) if len(candidates) > 1 and parsed.network is None else ()
    metadata = replace(metadata, **parsed.metadata)
    return Weights(str(where), candidates, part, metadata, parsed.network is not None, notes, run)


def _read_files(place: Path) -> tuple[Mapping[str, Any], Metadata]:
    if (place / "config.json").exists():
        return read_directory(place), read_metadata(place)
    if place.is_file():
        return read_tensors(place), read_metadata(place.parent) if place.name in FILES else Metadata()
    if not place.exists():
        raise ValueError(f"{place}: there is nothing; a run, a file or directory of weights, or timm:NAME is wanted")
    raise ValueError(f"{place}: neither a run, nor a checkpoint, nor an exported directory")


def _run_metadata(directory: RunDirectory) -> Metadata:
    vit, settings = directory.run.vit(), directory.run.settings
    size = {f.name: getattr(settings, f.name) for f in fields(settings)}.get("decoder")
    decoder_heads = size.heads if isinstance(size, DecoderSize) else None
    return Metadata(vit.heads, vit.image_size, vit.mean, vit.std, decoder_heads=decoder_heads)


def _choose(place: str, candidates: Mapping[str, Network], name: str | None) -> str:
    if name is not None and network_name(name) in candidates:  # "encoder" is the network that nothing else tells apart
        return network_name(name)
    names = ", ".join(f"{place}#{candidate}" for candidate in candidates)
    if name is not None:
        raise ValueError(f"{place}: it has no network {name!r}; it has: {names}")
    if len(candidates) == 1:
        return next(iter(candidates))
    preferred = next((p for p in PREFERRED if p in candidates), None)
    if preferred is None:
        raise ValueError(f"{place}: it has several networks, name one: {names}")
    return preferred


def _open_timm(parsed: Where, where: str) -> Weights:
    """Open a model of timm. That ours is the same is checked before the download, and once more on an image."""
    from . import timm  # timm takes seconds to import

    kind, _, name = parsed.place.partition(":")
    if name not in timm.names():
        near = difflib.get_close_matches(name, timm.names(), 1)
        raise ValueError(f"{where}: timm has no model {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    model = timm.without_weights(name)
    meta = Weights(where, networks(model.state_dict()), "", Metadata())
    if "" not in meta.networks:
        raise ValueError(f"{where}: {name} is not a vision transformer as ours is")
    meta.encoder("")
    if not timm.is_plain(model):
        raise ValueError(f"{where}: {name} computes something else than a plain vision transformer")
    model, note = timm.load_model(name, random=f"{kind}:" == RANDOM)
    cfg = model.pretrained_cfg
    heads, size = model.blocks[0].attn.num_heads, model.patch_embed.img_size
    metadata = Metadata(heads, size, tuple(cfg["mean"]), tuple(cfg["std"]), model.norm.eps)
    metadata = replace(metadata, **parsed.metadata)
    weights = Weights(where, networks(model.state_dict()), "", metadata, notes=(note,))
    tensors, _ = weights.encoder("")
    if "cls_token" in tensors:
        config, _ = convert.vit_config(tensors, metadata)
        difference = timm.difference(build_vit(config, tensors, metadata.eps), model)
        if not difference <= TOLERANCE:
            raise ValueError(f"{where}: ours is not what {name} is: their tokens differ by {difference:.1e}")
    return weights


def _summary(tensors: Mapping[Any, Any]) -> str:
    names = [str(name) for name in tensors]
    return f"it has {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "it is empty"

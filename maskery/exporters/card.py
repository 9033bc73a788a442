"""The model card: README.md of every exported directory. It says what is known, and of the rest that it is not."""

from collections.abc import Iterable
from pathlib import Path, PurePath

import yaml

from .. import __version__
from ..data.crops import resize_size
from ..inference.classifier import Classifier
from ..nn.vit import SIZES, Size
from ..objectives import OBJECTIVES
from ..runs.facts import Past, past_of
from .markdown import bullets, code
from .source import Exported, Source
from .told import method_of, of_run

SHOWN = 200  # classes that a card lists


def card(source: Source, done: Exported) -> str:
    """The text of README.md. Names from outside cannot break out of it."""
    past = past_of(source.run) if source.run else None
    named = source.classifier
    best = past.best if past and Path(source.where) == source.run else None  # a checkpoint is what it is
    kind = "image-classification" if named else "masked-autoencoder"
    tags = ["vision-transformer", "maskery", *([kind, past.run.method] if past else [kind] if named else [])]
    tags += ["onnx"] if done.to == "onnx" else []
    task = "image-classification" if named else "image-feature-extraction"
    front = {"library_name": done.library, "pipeline_tag": task, "tags": tags}
    blocks = [
        f"---\n# license: apache-2.0   # yours to choose, see below\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {_title(source, past)}",
        _about(source, done),
        *([f"## Classes\n\n{_classes(named.like)}"] if named else []),
        f"## Load it\n\n```python\n{done.load}\n```",
        f"Checked when it was written: {done.compared}, to {done.difference:.1e} of the largest value.",
        *(of_run(past, best if named else None) if past else [_of_weights(source)]),
        "## Limits\n\n" + bullets([*done.limits, *_limits(source, past)]),
        "## Licence\n\nNone has been chosen: whoever owns the images and these weights writes it at the top.",
        f"Written by Maskery {__version__}.",
    ]
    return "\n\n".join(blocks).encode("utf-8", "backslashreplace").decode() + "\n"


def _title(source: Source, past: Past | None) -> str:
    if source.classifier:
        of = PurePath(past.run.data if past else source.where).name
        return f"A classifier of {len(source.classifier.like.classes)} classes: {code(of or 'memory')}"
    if past:
        return f"{method_of(past).partition(':')[0]} on {code(PurePath(past.run.data).name)}"
    return f"A vision transformer from {code(PurePath(source.where).name or 'memory')}"


def _about(source: Source, done: Exported) -> str:
    c, named = source.encoder.config, source.classifier
    size = Size(c.dim, c.depth, c.heads)
    name = next((name for name, known in SIZES.items() if known == size), "a vision transformer")
    return (
        f"{name}/{c.patch_size}: width {c.dim}, {c.depth} blocks, {c.heads} heads. Input: {c.channels} channels of "
        f"{c.image_size[0]} x {c.image_size[1]} pixels (height x width); it takes {done.sizes}. Values in [0, 1] are "
        f"normalised by mean {_numbers(c.mean)} and standard deviation {_numbers(c.std)}. "
        + (
            f"Output: logits of {len(named.like.classes)} classes, of the {named.network.pool}. {_cut(named.like)}"
            if named
            else f"Output: a class token and {c.num_patches} patch tokens of width {c.dim}; it has no classifier."
        )
    )


def _cut(like: Classifier) -> str:
    """How an image was prepared when the numbers were measured."""
    if like.share == 1:
        return "It was measured on the largest central part of each image, resized."
    height, width = resize_size(like.size, like.share)
    return f"It was measured on the centre of images that were resized to cover {height} x {width} pixels."


def _classes(like: Classifier) -> str:
    shown = ", ".join(f"{i} {code(name)}" for i, name in enumerate(like.classes[:SHOWN]))
    more = f", and {len(like.classes) - SHOWN} more, which the files name" if len(like.classes) > SHOWN else ""
    if like.several:
        return f"{shown}{more}. An image may have several of them, or none: probabilities are each by itself (sigmoid)."
    return f"{shown}{more}. An image has one of them: probabilities sum to one (softmax)."


def _of_weights(source: Source) -> str:
    name = code(PurePath(source.where).name or "memory")
    return (
        f"## Where it is from\n\n{name}, which is no run of Maskery: its data, training and numbers are not known "
        "here. See where the weights were published, and their licence."
    )


def _limits(source: Source, past: Past | None) -> Iterable[str]:
    if source.classifier:
        yield "It knows these classes only, and answers with them whatever an image shows"
        yield "Its numbers are of images like those it learned from; try it on yours before you rely on it"
        return
    yield "Features are as good as the images were like yours; try them on a few labels before you rely on them"
    if past and not OBJECTIVES[past.run.method].labelled:
        yield "Learned without labels; what bias the images had, the features may have"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)

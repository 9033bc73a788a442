"""What is exported: an encoder, or a classifier with it, and what is known about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..inference.classifier import Classifier, Plain, classifier_at, is_classifier
from ..nn.linear_classifier import LinearClassifier
from ..nn.vit import ViT
from ..runs.directory import is_run, run_of
from ..tasks import TASKS
from ..tasks.classification.load import Trained
from ..weights.load import encoder_of
from ..weights.locate import Weights, asked_for, open_weights

ENCODER = "encoder"  # what stands behind # when a classifier's encoder alone is wanted


@dataclass(frozen=True)
class Named:
    """A classifier in the form that other libraries have, and what its answers mean."""

    network: LinearClassifier  # in eval mode, on the CPU
    like: Classifier  # whose answers it has to give


@dataclass(frozen=True)
class Source:
    encoder: ViT  # in eval mode, on the CPU
    where: str = ""  # as the user named it
    weights: Weights | None = None  # all that is there
    run: Path | None = None  # the run directory, when it is one or a checkpoint of one
    classifier: Named | None = None  # None: the encoder is exported alone


@dataclass(frozen=True)
class Exported:
    """What was written, once the other library has loaded it and computed the same."""

    to: str  # timm, hf, ...
    difference: float  # the largest of a batch, relative to the largest value
    compared: str  # in words: what with what
    load: str  # Python that loads it; {out} stands for the directory
    library: str  # what the Hub calls it
    sizes: str = "only images of that size"  # which images it takes
    limits: tuple[str, ...] = ()  # what it cannot do


def source_at(where: Path, say: Callable[[str], None] = print) -> Source:
    """The classifier at WHERE where there is one and not its encoder is asked for (WHERE#encoder), else the encoder.

    ValueError as `load_encoder`, `classifier_at`; for a run of another task, of which only the encoder can go out.
    """
    text, asked, facts = asked_for(str(where))
    place = Path(text)
    run = None
    if is_run(place):
        run = place if (place / "checkpoints").is_dir() else place.parent.parent
    if asked is None and is_classifier(place):
        if facts:
            raise ValueError(
                f"{where}: behind the # of a classifier stands {ENCODER}, for its encoder alone, or nothing"
            )
        found = classifier_at(place)
        named = Named(_plain(found, where), found)
        return Source(named.network.encoder, str(where), None, run, named)
    if asked is None and run is not None and (method := run_of(place, lambda note: None).method) in TASKS:
        raise ValueError(f"{where}: of a run of {method} only the encoder can be exported: {where}#{ENCODER}")
    weights = open_weights(where)
    return Source(encoder_of(weights, say), str(where), weights, run)


def _plain(found: Classifier, where: Path) -> LinearClassifier:
    if isinstance(found, Plain):
        return found.network
    assert isinstance(found, Trained)
    try:
        return found.task.plain(found.head)
    except ValueError as e:
        raise ValueError(
            f"{where}: {e}; maskery.classifier uses it, and {where}#{ENCODER} exports the encoder alone"
        ) from e

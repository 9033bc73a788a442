"""evals/*.json: the results of evaluations, with everything needed to know what the numbers are worth."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from ..data.sources.source import Source
from ..outputs import write_file
from ..text import to_bytes

RANDOM, START, END = "random initialisation", "what the run started from", "the run's end"  # labels
PACKAGES = (
    "maskery",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "scikit-learn",
    "imagecorruptions-imaug",
    "opencv-python",
    "faster-coco-eval",
    "transformers",
)


@dataclass(frozen=True)
class Result:
    """One evaluation of one set of weights with one seed."""

    evaluation: str  # "knn", "probe", "finetune", "robustness", ...
    numbers: Mapping[str, float]  # fractions and ratios, not percent
    protocol: str  # in words: what was done, and which settings differ from the published one
    data: str  # as the user named it
    fingerprint: str  # of the images and labels, see `fingerprint`
    weights: str  # the file, directory or model that was evaluated
    of: str = END  # label of the candidate in comparisons
    seed: int = 0  # of everything that was drawn: the head, the labelled images, corruptions
    drawn: bool = True  # False: nothing was drawn, every seed would give these numbers
    by_seed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # when repeated; `numbers` are the means
    counts: Mapping[str, int] = field(default_factory=dict)  # images, classes
    shown: str = ""  # the network's input: channels x height x width
    notes: Sequence[str] = ()  # warnings: overlap, long tails, images left out
    tables: Mapping[str, Any] = field(default_factory=dict)  # per class, per corruption; None for what is not defined
    command: Sequence[str] = ()  # empty: this process's
    versions: Mapping[str, str] = field(default_factory=dict)  # empty: what is installed
    device: str = "cpu"
    made: str = ""  # empty: now

    def __post_init__(self) -> None:
        for name, value in self.numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"{self.evaluation} of {self.weights}: {name} is {value}, which is no result")

    @classmethod
    def repeated(cls, by_seed: Mapping[int, Mapping[str, float]], **facts: Any) -> "Result":
        """Make one result of the same evaluation with several seeds: the numbers are means over them."""
        first = next(iter(by_seed))
        numbers = {name: fmean(values[name] for values in by_seed.values()) for name in by_seed[first]}
        each = {str(seed): dict(values) for seed, values in by_seed.items()} if len(by_seed) > 1 else {}
        return cls(numbers=numbers, seed=first, by_seed=each, **facts)

    def seeds(self) -> dict[int, Mapping[str, float]]:
        """Seed -> numbers."""
        return {int(seed): numbers for seed, numbers in self.by_seed.items()} or {self.seed: self.numbers}


def write_result(result: Result, run: Path | None, file: Path | None = None) -> list[Path]:
    """Write the result into `run`/evals/ when it is a run directory, and to `file`; whole or not at all.

    Files in a run are named by evaluation and time, and none is overwritten.
    """
    targets = [file] if file else []
    if run and (run / "config.yaml").exists() and (run / "checkpoints").is_dir():
        stem = f"{result.evaluation}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{stem}{f'-{i}' if i else ''}.json" for i in range(10**6))
        targets.append(next(run / "evals" / name for name in names if not (run / "evals" / name).exists()))
    for target in targets:
        write_results([result], target)
    return targets


def write_results(results: Sequence[Result], file: Path) -> Path:
    """Write one result, or several that belong together as a list, into one file."""
    facts = [_facts(result) for result in results]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(facts if len(facts) > 1 else facts[0], indent=1, allow_nan=False).encode())
    return file


def read_result(path: Path) -> Result:
    """Read a result from its file. ValueError when it is not one, or holds several."""
    results = read_results(path)
    if len(results) > 1:
        raise ValueError(f"{path}: a list of {len(results)} results, not one: read_results reads them")
    return results[0]


def read_results(path: Path) -> list[Result]:
    """Read the results of a file, one or several. ValueError when it holds none."""
    try:
        facts = json.loads(path.read_text())
        results = [Result(**each) for each in (facts if isinstance(facts, list) else [facts])]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: not a result of `maskery eval`: {e}") from e
    if not results:
        raise ValueError(f"{path}: not a result of `maskery eval`: an empty list")
    return results


def read_files(files: Iterable[Path]) -> tuple[list[Result], dict[Path, str]]:
    """Read the results of several files, and a sentence about each file that cannot be read."""
    results: list[Result] = []
    unreadable: dict[Path, str] = {}
    for file in files:
        try:
            results += read_results(file)
        except ValueError as e:
            unreadable[file] = f"An evaluation cannot be read: {e}"
    return results, unreadable


def fingerprint(source: Source, train: np.ndarray, test: np.ndarray, truth: str = "") -> str:
    """Hash training and test images by name, label and `truth` (what else is true of them), in order."""
    digest = hashlib.blake2b(digest_size=8)
    for indices in (train, test):
        for i in indices.tolist():
            label = "" if source.labels is None else source.labels[i]
            digest.update(to_bytes(str(source.names[i])) + f"\0{label}\n".encode())
            if source.multi_hot is not None:
                digest.update(source.multi_hot[i].tobytes())
        digest.update(b"\n")
    digest.update("\n".join(source.classes).encode() + truth.encode())
    return digest.hexdigest()


def version_of(package: str) -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Installed versions of packages that can change numbers."""
    installed = {"python": sys.version.split()[0]} | {name: v for name in PACKAGES if (v := version_of(name))}
    return installed | ({"cuda": torch.version.cuda} if torch.cuda.is_available() and torch.version.cuda else {})


def _facts(result: Result) -> dict[str, Any]:
    """The content of a file, with what the result left empty."""
    return asdict(result) | {
        "command": list(result.command or sys.argv),
        "versions": dict(result.versions or versions()),
        "made": result.made or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }

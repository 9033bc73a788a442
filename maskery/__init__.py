"""Masked autoencoders for your own images.

maskery.pretrain(data="photos", out="run")    the same options as the command line
maskery.resume("run")
maskery.compare(data="photos", out="which", methods=["mae", "rc-mae"], budget="epochs:20")
maskery.pack(data="photos", out="packed")     a faster copy of a data set
maskery.profile(run="run")                    where the time of a step goes, and what to change
maskery.knn(where=Path("run"), data="photos")      what it is worth: probe, segment, detect, vqa, ...
maskery.report(run=Path("run"))               one page about it: run/report.html
maskery.load("run").features(images)          the encoder; images: paths, PIL images, arrays, tensors
maskery.export("run", "out", to="timm")       or hf, hf-mae, onnx, safetensors
maskery.classifier("run/evals/finetune/end-seed0").predict(images)     names and probabilities; also export(...)
maskery.predict(where=Path("..."), data="photos", out=Path("labels.csv"))    the same for a whole data set
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .commands.compare import compare
    from .commands.embed import embed
    from .commands.evaluate_frozen import knn, quick_probe
    from .commands.evaluate_trained import detect, finetune, probe, segment, vqa
    from .commands.export import export
    from .commands.inspect import inspect
    from .commands.pack import pack
    from .commands.predict import predict
    from .commands.pretrain import pretrain
    from .commands.profile import profile
    from .commands.report import report, watch
    from .commands.resume import resume
    from .commands.robustness import robustness
    from .inference.classifier import classifier
    from .inference.encoder import load

__version__ = "0.1.0"
__all__ = [
    "classifier",
    "compare",
    "detect",
    "embed",
    "export",
    "finetune",
    "inspect",
    "knn",
    "load",
    "pack",
    "predict",
    "pretrain",
    "probe",
    "profile",
    "quick_probe",
    "report",
    "resume",
    "robustness",
    "segment",
    "vqa",
    "watch",
]


MODULES = {  # where it is: torch is imported when something is used, not by `import maskery`
    "classifier": "inference.classifier",
    "compare": "commands.compare",
    "detect": "commands.evaluate_trained",
    "embed": "commands.embed",
    "export": "commands.export",
    "finetune": "commands.evaluate_trained",
    "inspect": "commands.inspect",
    "knn": "commands.evaluate_frozen",
    "load": "inference.encoder",
    "pack": "commands.pack",
    "predict": "commands.predict",
    "pretrain": "commands.pretrain",
    "probe": "commands.evaluate_trained",
    "profile": "commands.profile",
    "quick_probe": "commands.evaluate_frozen",
    "report": "commands.report",
    "resume": "commands.resume",
    "robustness": "commands.robustness",
    "segment": "commands.evaluate_trained",
    "vqa": "commands.evaluate_trained",
    "watch": "commands.report",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"maskery has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f".{MODULES[name]}", __name__), name)

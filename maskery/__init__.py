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
    from .comparison import compare
    from .evaluate import knn, quick_probe
    from .predictions import predict
    from .predictor import classifier
    from .profiling import profile
    from .reporting import report, watch
    from .robust import robustness
    from .start import pretrain, resume
    from .supervise import detect, finetune, probe, segment, vqa
    from .verbs import embed, export, inspect, load, pack

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
    "classifier": "predictor",
    "compare": "comparison",
    "detect": "supervise",
    "embed": "verbs",
    "export": "verbs",
    "finetune": "supervise",
    "inspect": "verbs",
    "knn": "evaluate",
    "load": "verbs",
    "pack": "verbs",
    "predict": "predictions",
    "pretrain": "start",
    "probe": "supervise",
    "profile": "profiling",
    "quick_probe": "evaluate",
    "report": "reporting",
    "resume": "start",
    "robustness": "robust",
    "segment": "supervise",
    "vqa": "supervise",
    "watch": "reporting",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"maskery has no {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f".{MODULES[name]}", __name__), name)

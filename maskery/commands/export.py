"""`maskery export`: write an encoder or classifier for timm, Hugging Face, ONNX Runtime or as safetensors."""

import textwrap
from pathlib import Path

from ..exporters import hub
from ..exporters.export import Kind, check_replaceable, export_to
from ..exporters.model import ENCODER, open_model
from ..options import UsageError


def export(
    where: str | Path,
    out: str | Path,
    to: Kind = "timm",
    overwrite: bool = False,
    push: str | None = None,
    public: bool = False,
) -> Path:
    """Hand the encoder to another library, or the classifier of `maskery eval finetune` and `probe`; done means: loaded
    there and compared on a batch. With a model card.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md). Of the
            run of a classifier, RUN/evals/finetune/end-seed0, the whole of it; WHERE#encoder: its encoder alone
        out: directory to write
        to: timm: what `timm.create_model("local-dir:OUT", pretrained=True)` opens; hf: transformers' ViTModel, or
            ViTForImageClassification, with its image processor; hf-mae: ViTMAEForPreTraining, with the decoder; onnx: a
            graph for ONNX Runtime; safetensors: the tensors alone
        overwrite: replace `out` when it exists
        push: OWNER/NAME at the Hugging Face hub to upload it to as well
        public: let everybody see it there; otherwise a new repository is private
    """
    where, out = Path(where), Path(out)
    check_replaceable(out, overwrite)
    if public and not push:
        raise UsageError("--public is for --push OWNER/NAME")
    if push:
        hub.check_name(push)
    model = open_model(where)
    result = export_to(to, model, out, overwrite)
    print(f"{out}: done; {result.compared} to {result.difference:.1e}. It takes {result.sizes}")
    if model.classifier:
        print(f"A classifier of {len(model.classifier.classes)} classes; {where}#{ENCODER} is its encoder alone")
    for limit in result.limits:
        print(limit)
    print("In Python:\n" + textwrap.indent(result.load, "  "))
    if push:
        address = hub.push(model, result, out, push, public=public)
        print(f"{address}: uploaded, {'public' if public else 'private unless it was public before'}")
    return out

"""`maskery export`: write an encoder or classifier for timm, Hugging Face, ONNX Runtime or as safetensors."""

import textwrap
from pathlib import Path

from ..config import ImagesConfig
from ..exporters.export import Kind, export_to, refuse
from ..exporters.hub import push as upload
from ..exporters.hub import refuse_name
from ..exporters.source import ENCODER, source_at
from ..options import UsageError

DEFAULT_IMAGES = ImagesConfig()  # how data is read unless options say otherwise


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
    refuse(out, overwrite)
    if public and not push:
        raise UsageError("--public is for --push OWNER/NAME")
    if push:
        refuse_name(push)
    source = source_at(where)
    done = export_to(to, source, out, overwrite)
    print(f"{out}: done; {done.compared} to {done.difference:.1e}. It takes {done.sizes}")
    if source.classifier:
        print(f"A classifier of {len(source.classifier.like.classes)} classes; {where}#{ENCODER} is its encoder alone")
    for limit in done.limits:
        print(f"{limit}")
    print("In Python:\n" + textwrap.indent(done.load, "  "))
    if push:
        where_to = upload(source, done, out, push, public=public)
        print(f"{where_to}: uploaded, {'public' if public else 'private unless it was public before'}")
    return out

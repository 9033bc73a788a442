"""A directory for Hugging Face transformers to go on pretraining: `ViTMAEForPreTraining`, with the decoder.

B images, N patches
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..methods.mae import MAE, MAEConfig
from ..nn import masking
from ..nn.decoder import DecoderSize
from ..nn.targets import pixels
from ..text import one_line
from ..weights import convert
from ..weights.read import read_json
from .check import TOLERANCE, check_difference, difference, sample_images
from .hf_files import LOAD, decoder_names, encoder_names, import_transformers, load_back, write_directory
from .model import ExportModel, ExportResult

UNSUPPORTED = {  # methods that use a pixel decoder of this form otherwise
    "mixed-ae": "its decoder reconstructs images from mixtures of several, which ViTMAEForPreTraining does not make"
}


def write_hf_mae(model: ExportModel, folder: Path) -> ExportResult:
    """Write what `ViTMAEForPreTraining.from_pretrained(FOLDER)` opens; latent and loss are compared on one mask."""
    import_transformers("hf-mae")
    mae = build_mae(model)
    encoder, size = mae.encoder, mae.config.decoder
    n, ratio = encoder.config.num_patches, mae.config.mask_ratio
    k = masking.visible_count(n, ratio)
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": size.dim,
        "decoder_num_hidden_layers": size.depth,
        "decoder_num_attention_heads": size.heads,
        "decoder_intermediate_size": 4 * size.dim,
        "mask_ratio": ratio if int(n * (1 - ratio)) == k else 1 - (k + 0.5) / n,  # which transformers rounds down to k
        "norm_pix_loss": mae.config.norm_pix,
    }
    tensors = {f"vit.{name}": t for name, t in encoder_names(encoder.state_dict()).items()}
    tensors |= {f"decoder.{name}": t for name, t in decoder_names(mae.decoder.state_dict()).items()}
    limits = write_directory(folder, encoder, config, tensors)

    worst = _compare(mae, load_back("ViTMAEForPreTraining", folder))
    compared = "latent, predictions and loss of transformers' ViTMAEForPreTraining are ours"
    last = f'loss = model(**processor(image, return_tensors="pt")).loss  # masks {ratio:.0%} anew each time'
    load = LOAD.format(model="ViTMAEForPreTraining", arguments="", last=last)
    return ExportResult("hf-mae", worst, compared, load, "transformers", limits=limits)


@torch.no_grad()
def _compare(mae: MAE, theirs: Any) -> float:
    """Compare with the model of transformers under the same masks. ValueError when they differ."""
    encoder, ratio, norm_pix = mae.encoder, mae.config.mask_ratio, mae.config.norm_pix
    images = sample_images(encoder)
    noise = torch.rand(len(images), encoder.config.num_patches, generator=torch.Generator().manual_seed(1))
    x, m = encoder.normalise(images), masking.hide_highest(noise, ratio)
    output = theirs(x, noise=noise)
    x_hat, z = mae.eval().predict(x, m), encoder.encode(x, m)
    u = pixels(x, encoder.config.patch_size, norm_pix)
    differences = {
        "latent": difference(z, theirs.vit(x, noise=noise).last_hidden_state),
        "predictions": difference(x_hat, output.logits),
        "loss": difference(masking.hidden_mean((x_hat - u).square().mean(-1), m), output.loss),
    }
    worst = max(differences, key=lambda name: differences[name])
    check_difference(differences[worst], TOLERANCE, f"transformers' {worst}")
    return differences[worst]


def build_mae(model: ExportModel) -> MAE:
    """Put the encoder together with the pixel decoder it was trained with. ValueError says why there is none."""
    if model.classifier:
        raise ValueError(
            f"{model.where}: a classifier has no decoder, which ViTMAEForPreTraining has; export the run it was "
            "fine-tuned from, or take --to timm"
        )
    where, weights, c = model.where or "the encoder", model.weights, model.encoder.config
    if model.run and model.run.run.method in UNSUPPORTED:
        method = model.run.run.method
        raise ValueError(f"{where}: {method} is no ViTMAEForPreTraining: {UNSUPPORTED[method]}; take --to hf")
    decoder = convert.decoder_tensors(weights.networks[weights.part].decoder) if weights else {}
    if not decoder:
        raise ValueError(f"{where}: there is no decoder, which ViTMAEForPreTraining has; take --to hf")
    outputs, predicted = c.patch_size**2 * c.channels, decoder["pred.weight"].shape[0]
    if predicted != outputs:
        raise ValueError(
            f"{where}: its decoder predicts {predicted} numbers a patch, not its {outputs} pixels as "
            "ViTMAEForPreTraining does; take --to hf"
        )
    if c.image_size[0] != c.image_size[1]:
        raise ValueError(
            f"{where}: images of {c.image_size[0]} x {c.image_size[1]}, and ViTMAEForPreTraining takes squares only; "
            "take --to hf"
        )
    with torch.device("meta"):
        mae = MAE(_mae_config(model, decoder), c)
    mae.encoder = model.encoder
    try:
        mae.decoder.load_state_dict(decoder, assign=True)
    except RuntimeError as e:
        raise ValueError(f"{where}: its decoder is not MAE's: {one_line(e)}") from e
    return mae


def _mae_config(model: ExportModel, decoder: Mapping[str, Tensor]) -> MAEConfig:
    """The settings it was trained with; MAE's own where they are not known."""
    default, weights, settings = MAEConfig(), model.weights, {}
    if model.run:
        settings = {f.name: getattr(model.run.run.settings, f.name) for f in fields(model.run.run.settings)}
    elif weights and (Path(weights.where) / "config.json").exists():
        settings = read_json(Path(weights.where) / "config.json")
        settings["norm_pix"] = settings.get("norm_pix_loss", default.norm_pix)
    heads = (weights.metadata.decoder_heads if weights else None) or default.decoder.heads
    size = DecoderSize(decoder["mask_token"].shape[-1], convert.count_blocks(decoder), heads)
    return MAEConfig(settings.get("mask_ratio", default.mask_ratio), settings.get("norm_pix", default.norm_pix), size)

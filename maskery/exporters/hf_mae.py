"""A directory for Hugging Face transformers to go on pretraining: `ViTMAEForPreTraining`, with the decoder.

B images, N patches
"""

import json
from dataclasses import fields
from pathlib import Path

import torch

from ..methods.mae import MAE, MAEConfig
from ..nn import masking
from ..nn.decoder import DecoderSize
from ..nn.targets import pixels
from ..runs.directory import run_of
from ..weights import convert
from ..weights.read import read_json
from .check import difference, images_for, refuse_above
from .hf_files import (
    LOAD,
    TOLERANCE,
    config_of,
    decoder_names_of,
    library,
    names_of,
    processor,
    refuse_incomplete,
    save,
    without_bars,
)
from .source import Exported, Source

OTHERWISE = {  # methods that have a pixel decoder of this form and use it otherwise
    "mixed-ae": "its decoder reconstructs images from mixtures of several, which ViTMAEForPreTraining does not make"
}


def write(source: Source, folder: Path) -> Exported:
    """What `ViTMAEForPreTraining.from_pretrained(FOLDER)` opens; latent and loss compared under the same masks."""
    transformers = library("hf-mae")
    mae = mae_of(source)
    encoder, size = mae.encoder, mae.config.decoder
    n, r = encoder.config.num_patches, mae.config.mask_ratio
    k = masking.visible_count(n, r)
    facts = {"architectures": ["ViTMAEForPreTraining"], "model_type": "vit_mae"} | config_of(encoder)
    facts |= {
        "decoder_hidden_size": size.dim,
        "decoder_num_hidden_layers": size.depth,
        "decoder_num_attention_heads": size.heads,
        "decoder_intermediate_size": 4 * size.dim,
        "mask_ratio": r if int(n * (1 - r)) == k else 1 - (k + 0.5) / n,  # which theirs rounds down to k as well
        "norm_pix_loss": mae.config.norm_pix,
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    limits = processor(encoder, folder)
    decoder = {f"decoder.{name}": t for name, t in decoder_names_of(mae.decoder.state_dict()).items()}
    save({f"vit.{name}": t for name, t in names_of(encoder.state_dict()).items()} | decoder, folder)

    with without_bars(transformers):
        model, told = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    refuse_incomplete(told)
    images = images_for(encoder)
    noise = torch.rand(len(images), n, generator=torch.Generator().manual_seed(1))
    x, m = encoder.normalise(images), masking.hide_highest(noise, r)
    with torch.no_grad():
        latent = model.eval().vit(x, noise=noise).last_hidden_state
        theirs = model(x, noise=noise)
        x_hat, z = mae.eval().predict(x, m), encoder.encode(x, m)
        u = pixels(x, encoder.config.patch_size, mae.config.norm_pix)
        loss = masking.hidden_mean((x_hat - u).square().mean(-1), m)
    pairs = {"latent": (z, latent), "predictions": (x_hat, theirs.logits), "loss": (loss, theirs.loss)}
    found = {what: difference(*pair) for what, pair in pairs.items()}
    worst = max(found, key=lambda what: found[what])
    refuse_above(TOLERANCE, found[worst], f"transformers' {worst}")
    compared = "latent, predictions and loss of transformers' ViTMAEForPreTraining are ours"
    last = 'loss = model(**processor(image, return_tensors="pt")).loss  # masks 75 % anew each time'
    last = last.replace("75 %", f"{r:.0%}")
    load = LOAD.format(model="ViTMAEForPreTraining", arguments="", last=last)
    return Exported("hf-mae", found[worst], compared, load, "transformers", limits=limits)


def mae_of(source: Source) -> MAE:
    """The encoder with the pixel decoder it was trained with. ValueError says why there is none."""
    if source.classifier:
        raise ValueError(
            f"{source.where}: a classifier has no decoder, which ViTMAEForPreTraining has; export the run it was "
            "fine-tuned from, or take --to timm"
        )
    encoder, weights, where = source.encoder, source.weights, source.where or "the encoder"
    given = MAEConfig()
    if source.run:
        run = run_of(source.run, lambda note: None)
        if run.method in OTHERWISE:
            raise ValueError(f"{where}: {run.method} is no ViTMAEForPreTraining: {OTHERWISE[run.method]}; take --to hf")
        said = {f.name: getattr(run.settings, f.name) for f in fields(run.settings)}
        given = MAEConfig(said.get("mask_ratio", given.mask_ratio), said.get("norm_pix", given.norm_pix))
    elif weights and (Path(weights.where) / "config.json").exists():
        said = read_json(Path(weights.where) / "config.json")
        given = MAEConfig(said.get("mask_ratio", given.mask_ratio), said.get("norm_pix_loss", given.norm_pix))
    found = convert.decoder_names(weights.networks[weights.part].decoder) if weights else {}
    c = encoder.config
    outputs = c.patch_size**2 * c.channels
    if not found:
        raise ValueError(f"{where}: there is no decoder, which ViTMAEForPreTraining has; take --to hf")
    if found["pred.weight"].shape[0] != outputs:
        raise ValueError(
            f"{where}: its decoder predicts {found['pred.weight'].shape[0]} numbers a patch, not its {outputs} pixels "
            "as ViTMAEForPreTraining does; take --to hf"
        )
    if c.image_size[0] != c.image_size[1]:
        raise ValueError(
            f"{where}: images of {c.image_size[0]} x {c.image_size[1]}, and ViTMAEForPreTraining takes squares only; "
            "take --to hf"
        )
    dim = found["mask_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("blocks."))
    heads = (weights.facts.decoder_heads if weights else None) or 16  # MAE's, where nobody says
    with torch.device("meta"):
        mae = MAE(MAEConfig(given.mask_ratio, given.norm_pix, DecoderSize(dim, depth, heads)), c)
    mae.encoder = encoder
    try:
        mae.decoder.load_state_dict(found, assign=True)
    except RuntimeError as e:
        raise ValueError(f"{where}: its decoder is not MAE's: {' '.join(str(e).split())[:160]}") from e
    return mae

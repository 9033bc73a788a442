"""Named recipes are the papers'."""

import pytest

from maskery.recipes import RECIPES


@pytest.mark.parametrize(("name", "patch"), [("base", 16), ("large", 16), ("huge", 14)])
def test_the_papers_recipes(name: str, patch: int) -> None:
    run, model = RECIPES[f"mae-{name}"](), f"vit-{name}"
    assert (run.model, run.patch_size, run.size) == (model, patch, (224, 224))
    assert (run.epochs, run.batch_size) == (1600, 4096)
    assert run.lr == pytest.approx(2.4e-3)  # 1.5e-4 * 4096 / 256
    assert run.optim.warmup * run.epochs == pytest.approx(40)
    assert (run.optim.betas, run.optim.weight_decay) == ((0.9, 0.95), 0.05)
    assert (run.settings.mask_ratio, run.settings.norm_pix) == (0.75, True)
    decoder = run.settings.decoder
    assert (decoder.dim, decoder.depth, decoder.heads) == (512, 8, 16)
    assert (run.crop.scale, run.crop.flip) == ((0.2, 1.0), 0.5)

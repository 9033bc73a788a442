"""Named runs are the papers'; the run for somebody's data is a pure function with reasons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.nn import masking, positions
from maskery.nn.vit import SIZES
from maskery.recipes import RECIPES, suggest


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


@given(
    images=st.integers(1, 20_000_000),
    height=st.integers(8, 4000),
    width=st.integers(8, 4000),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_every_suggestion_fits_together(images: int, height: int, width: int, device: str) -> None:
    suggestion = suggest(images, height, width, device)
    run = suggestion.run
    assert suggestion == suggest(images, height, width, device)
    rows, columns = positions.grid_of(run.size, run.patch_size)
    masking.visible_count(rows * columns, run.settings.mask_ratio)
    assert run.model in SIZES
    assert run.batch_size >= 8
    assert run.total_steps(images) >= 1
    assert 1e-4 < run.lr < 3e-3
    words = " ".join(suggestion.reasons)
    assert all(word in words for word in ("image size", "patch size", "model", "batch", "epochs", "lr", "decoder"))


def test_small_and_large() -> None:
    few, many = suggest(2_000, 500, 400).run, suggest(1_281_167, 500, 400).run
    assert (few.model, many.model) == ("vit-tiny", "vit-base")
    assert few.epochs is not None
    assert many.epochs is not None
    assert few.epochs > many.epochs
    assert many.batch_size == 4096
    assert "ImageNet weights" in " ".join(suggest(2_000, 500, 400).reasons)
    assert suggest(60_000, 32, 32).run.size == (32, 32)


def test_choices_of_the_user_are_kept_and_not_argued() -> None:
    suggestion = suggest(50_000, 500, 400, model="vit-large", patch_size=14, image_size=(196, 224), batch_size=640)
    run = suggestion.run
    assert (run.model, run.patch_size, run.size, run.batch_size) == ("vit-large", 14, (196, 224), 640)
    assert run.settings.decoder.dim == 512
    assert not any(reason.startswith(("model", "patch size", "image size", "batch")) for reason in suggestion.reasons)

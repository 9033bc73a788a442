"""The run for somebody's data is a pure function with reasons."""

from hypothesis import given
from hypothesis import strategies as st

from maskery.nn import masking, positions
from maskery.nn.vit import SIZES
from maskery.suggest import suggest


@given(
    images=st.integers(1, 20_000_000),
    height=st.integers(8, 4000),
    width=st.integers(8, 4000),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_every_suggestion_fits_together(images: int, height: int, width: int, device: str) -> None:
    suggestion = suggest(images, (height, width), device)
    run = suggestion.run
    assert suggestion == suggest(images, (height, width), device)
    rows, columns = positions.grid_of(run.size, run.patch_size)
    masking.visible_count(rows * columns, run.settings.mask_ratio)
    assert run.model in SIZES
    assert run.batch_size >= 8
    assert run.total_steps(images) >= 1
    assert 1e-4 < run.lr < 3e-3
    words = " ".join(suggestion.reasons)
    assert all(word in words for word in ("image size", "patch size", "model", "batch", "epochs", "lr", "decoder"))


def test_small_and_large() -> None:
    few, many = suggest(2_000, (500, 400)).run, suggest(1_281_167, (500, 400)).run
    assert (few.model, many.model) == ("vit-tiny", "vit-base")
    assert few.epochs is not None
    assert many.epochs is not None
    assert few.epochs > many.epochs
    assert many.batch_size == 4096
    assert "ImageNet weights" in " ".join(suggest(2_000, (500, 400)).reasons)
    assert suggest(60_000, (32, 32)).run.size == (32, 32)


def test_choices_of_the_user_are_kept_and_not_argued() -> None:
    suggestion = suggest(
        50_000, (500, 400), given={"model": "vit-large", "patch_size": 14, "image_size": (196, 224), "batch_size": 640}
    )
    run = suggestion.run
    assert (run.model, run.patch_size, run.size, run.batch_size) == ("vit-large", 14, (196, 224), 640)
    assert run.settings.decoder.dim == 512
    assert not any(reason.startswith(("model", "patch size", "image size", "batch")) for reason in suggestion.reasons)

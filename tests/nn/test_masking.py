"""Masks: how many, which, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskery.nn import masking


@given(b=st.integers(1, 4), n=st.integers(2, 60), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_mask_partitions_the_patches(b: int, n: int, ratio: float, seed: int) -> None:
    if not 0 < int(n * (1 - ratio) + 1e-6) < n:
        return
    torch.manual_seed(seed)
    scores = torch.rand(b, n)
    mask = masking.hide_highest(scores, ratio)
    k = mask.keep.shape[1]
    assert k == masking.visible_count(n, ratio)
    assert (mask.hidden.sum(1) == n - k).all()
    assert not mask.hidden.gather(1, mask.keep).any()
    for row in range(b):  # every visible patch scores below every hidden one
        assert scores[row][mask.hidden[row] == 0].max() <= scores[row][mask.hidden[row] == 1].min()
    hidden = masking.hidden_places(mask)
    assert torch.equal(torch.cat([mask.keep, hidden], 1), scores.argsort(1))
    assert torch.equal(hidden.sort(1).values, torch.stack([h.nonzero()[:, 0] for h in mask.hidden]))
    order = torch.cat([mask.keep, torch.stack([h.nonzero()[:, 0] for h in mask.hidden])], 1)
    tokens = torch.rand(b, n, 3)
    shuffled = masking.take(tokens, order[:, :k])  # visible ones come back to their places
    back = masking.take(torch.cat([shuffled, torch.zeros(b, n - k, 3)], 1), mask.restore)
    torch.testing.assert_close(back, tokens * (1 - mask.hidden)[..., None])


@pytest.mark.parametrize(("n", "ratio", "k"), [(196, 0.75, 49), (100, 0.8, 20), (64, 0.75, 16), (256, 0.6, 102)])
def test_visible_count(n: int, ratio: float, k: int) -> None:
    assert masking.visible_count(n, ratio) == k


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, 0.99])
def test_a_ratio_that_leaves_no_or_all_patches(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask ratio {ratio:g} leaves .* of 16 patches visible"):
        masking.visible_count(16, ratio)


def test_hidden_mean_counts_hidden_patches_only() -> None:
    mask = masking.hide_highest(torch.tensor([[0.1, 0.9, 0.2, 0.8]]), 0.5)
    assert masking.hidden_mean(torch.tensor([[100.0, 1.0, 100.0, 3.0]]), mask) == 2.0

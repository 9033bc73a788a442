from dataclasses import replace
from typing import Any

import pytest
import torch

from maskery.data.masks import VOID
from maskery.tasks.segmentation import targets
from maskery.tasks.segmentation.objective import Segment, SegmentConfig, depths_of

from ..runs import NAMES, VIT


def built(**settings: Any) -> Segment:
    torch.manual_seed(0)
    return Segment(SegmentConfig(**{"labels": NAMES, "width": 16} | settings), VIT).train()


def batch_of(n: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {"image": torch.rand(n, 3, 32, 32), "label": torch.randint(VOID, 3, (n, 32, 32)).short()}


def test_the_auxiliary_loss_is_a_part_of_the_loss() -> None:
    objective, without = built(), built(auxiliary=0.0)
    drawn = objective.sample(batch_of(), 0.0)
    losses = objective(drawn, 0.0)
    logits, _ = objective.logits(drawn)
    assert float(losses["loss"].detach() - 0.4 * losses["auxiliary"]) == pytest.approx(
        float(targets.loss(logits, drawn["y"], NAMES).detach()), rel=1e-5
    )
    assert without(batch_of(), 0.0).keys() == {"loss"}


def test_a_frozen_encoder_stays_and_its_features_are_normalised() -> None:
    objective = built(head="linear", freeze=True)
    trainable = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trainable == {"classifier.weight", "classifier.bias"}
    drawn = objective.sample(batch_of(), 0.0)
    h = drawn["features"].flatten(0, 2)  # [B N, D]
    torch.testing.assert_close(h.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.var(0, unbiased=False), torch.ones(48), atol=1e-3, rtol=0)
    objective.config = replace(objective.config, distortion=False, dropout=0.0)
    for _ in range(120):  # the same batch again and again: the running averages come to it
        objective.sample(batch_of(), 0.0)
        objective.after_step(0.0)
    trained, _ = objective.logits(objective.sample(batch_of(), 0.0))
    measured, _ = objective.eval().logits(batch_of())
    torch.testing.assert_close(measured, trained, atol=2e-3, rtol=0)


def test_blocks_that_nothing_looks_at_do_not_learn() -> None:
    objective = built(depths=(1, 1, 1, 1))
    objective(batch_of(), 0.0)["loss"].backward()
    assert not any(p.requires_grad for p in objective.encoder.blocks[1].parameters())
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)


@pytest.mark.parametrize("head", ["mlp", "upernet"])
def test_any_head_may_be_all_that_learns(head: str) -> None:
    objective = built(head=head, freeze=True)
    objective(batch_of(), 0.0)["loss"].backward()
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert all(p.grad is not None for name, p in objective.named_parameters() if p.requires_grad)


def test_depths() -> None:
    assert [depths_of(SegmentConfig(), n) for n in (12, 24, 6, 2, 1)] == [
        (4, 6, 8, 12),  # mmsegmentation's 3, 5, 7, 11, which count from 0
        (8, 12, 16, 24),
        (2, 3, 4, 6),
        (1, 1, 1, 2),
        (1, 1, 1, 1),
    ]
    for wrong in ((1, 2, 3, 4), (0, 1, 1, 2), (2, 1, 1, 1)):
        with pytest.raises(ValueError, match="this encoder has 2 blocks"):
            depths_of(SegmentConfig(depths=wrong), 2)

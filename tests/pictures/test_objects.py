"""Objects drawn over an image."""

import torch

from maskery.pictures.objects import outlined
from maskery.pictures.segments import colours


def test_outlines() -> None:
    boxes, masks = torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.zeros(1, 10, 10)
    masks[0, 3:7, 3:7] = 1
    shown = outlined(torch.zeros(3, 10, 10), boxes, torch.tensor([0]), 1, masks, line=1)
    assert torch.equal(shown[:, 2, 2], colours(1)[0])
    assert torch.equal(shown[:, 3, 3], colours(1)[0])  # the mask's edge
    assert torch.allclose(shown[:, 5, 5], 0.4 * colours(1)[0])
    assert not shown[:, 0].any()
    assert outlined(torch.rand(1, 10, 10), boxes, torch.tensor([0]), 1).shape == (3, 10, 10)

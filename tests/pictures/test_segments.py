import pytest
import torch

from maskery.data.masks import VOID
from maskery.pictures.segments import colours, outlined, painted


def test_overlays() -> None:
    image, mask = torch.full((1, 3, 2, 2), 0.5), torch.tensor([[[0, 1], [2, VOID]]])
    found, palette = painted(image, mask, 3), colours(3)
    assert torch.allclose(found[0, :, 0, 1], 0.2 + 0.6 * palette[1])
    assert found[0, :, 1, 1].tolist() == pytest.approx([0.2] * 3)
    assert painted(torch.rand(2, 5, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), 3).shape == (2, 3, 4, 4)
    assert len(set(map(tuple, colours(150).tolist()))) == 150


def test_outlines() -> None:
    boxes, masks = torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.zeros(1, 10, 10)
    masks[0, 3:7, 3:7] = 1
    shown = outlined(torch.zeros(3, 10, 10), boxes, torch.tensor([0]), 1, masks)
    assert torch.equal(shown[:, 2, 2], colours(1)[0])
    assert torch.equal(shown[:, 3, 3], colours(1)[0])  # the mask's edge
    assert torch.allclose(shown[:, 5, 5], 0.4 * colours(1)[0])
    assert not shown[:, 0].any()
    assert outlined(torch.rand(1, 10, 10), boxes, torch.tensor([0]), 1).shape == (3, 10, 10)

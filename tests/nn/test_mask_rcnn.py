"""Mask R-CNN: anchors lie where torchvision's do, samples depend on keys alone, levels not on the first images."""

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from maskery.nn.mask_rcnn import Anchors, Sampler, mask_rcnn
from maskery.nn.pyramid import LEVELS

from .test_pyramid import shapes


def test_anchors_are_torchvisions() -> None:
    maps = [torch.zeros(2, 4, *shape) for shape in shapes((4, 8))]
    images = ImageList(torch.zeros(2, 3, 64, 128), [(64, 128)] * 2)
    ours = Anchors(16)(images, maps)
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)(images, maps)
    assert len(ours) == 2
    torch.testing.assert_close(ours[1], theirs[1])


def test_anchors_of_odd_patches_stay_on_their_places() -> None:
    """torchvision takes a stride of 14 / 4 pixels for 3: after 32 places that is 16 pixels off."""
    maps = [torch.zeros(1, 4, *shape) for shape in shapes((8, 8))]
    (found,) = Anchors(14)(ImageList(torch.zeros(1, 3, 112, 112), [(112, 112)]), maps)
    centre = (found[3 * 32 * 32 - 1, :2] + found[3 * 32 * 32 - 1, 2:]) / 2
    assert centre.tolist() == [31 * 3.5] * 2


def test_what_is_sampled_depends_on_the_images_key_alone() -> None:
    labels = [torch.randint(-1, 2, (500,)) for _ in range(3)]
    sampler, keys = Sampler(64, 0.25, 0), torch.tensor([5, 6, 7])
    sampler.keys = keys
    together = sampler(labels)
    torch.rand(3)
    for i in range(3):
        sampler.keys = keys[i : i + 1]
        alone = sampler(labels[i : i + 1])
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[i], part[0])
        positive, negative = (part[0].bool() for part in alone)
        assert (int(positive.sum()), int(negative.sum())) == (16, 48)
        assert (labels[i][positive] == 1).all()
        assert (labels[i][negative] == 0).all()
    sampler.keys = torch.tensor([5, 5, 8])
    assert not torch.equal(sampler(labels)[0][2], together[0][2])


def test_few_positives_are_filled_up_with_negatives() -> None:
    sampler = Sampler(64, 0.25, 0)
    sampler.keys = torch.tensor([1])
    positive, negative = sampler([torch.tensor([1, 1] + [0] * 100)])
    assert (int(positive[0].sum()), int(negative[0].sum())) == (2, 62)


def test_levels_of_proposals_do_not_depend_on_the_first_images() -> None:
    detector = mask_rcnn(8, 8, 2, 16, True, 8)
    pool = detector.roi_heads.box_roi_pool
    features = {name: torch.randn(1, 8, *shape) for name, shape in zip(LEVELS, shapes((8, 8)), strict=True)}
    boxes = [torch.tensor([[8.0, 8.0, 100.0, 90.0]])]
    small = pool(features, boxes, [(20, 20)])
    assert torch.equal(pool(features, boxes, [(128, 128)]), small)
    assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]

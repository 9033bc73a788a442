"""Whole images of different sizes in one strip."""

import torch

from maskery.pictures.examples import padded, scaled


def test_images_of_different_sizes_are_centred_on_white() -> None:
    tall, wide = scaled(torch.zeros(1, 3, 20, 10)), scaled(torch.zeros(1, 3, 5, 10))
    both = padded([tall, wide])
    assert both.shape == (2, 3, 320, 320)
    assert both[0, 0].sum(0).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80
    assert both[1, 0].sum(1).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80

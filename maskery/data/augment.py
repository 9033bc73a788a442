"""RandAugment on single crops, as timm does it for fine-tuning; random choices are a function of a key.

h x w pixels of a view, C channels
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

_PART = r"m\d+|n[1-9]|p(0(\.\d+)?|1(\.0+)?)|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)"  # timm passes over others
_POLICY = re.compile(rf"rand(-({_PART}))*")


@dataclass(frozen=True)
class Augment:
    """timm's `rand_augment_transform` with the parameters that timm's `create_transform` gives it.

    On grey images operations on saturation ("Color", "Desaturate") change nothing.
    """

    policy: str = "rand-m9-mstd0.5-inc1"  # magnitude 9 +- 0.5 of 10, stronger with it: MAE's for fine-tuning
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # [C] in [0, 1]: fill colour of translated and rotated images
    size: tuple[int, int] = (224, 224)  # of a view

    def __post_init__(self) -> None:
        if not _POLICY.fullmatch(self.policy):
            raise ValueError(
                f"augment is {self.policy!r}: a policy of timm's RandAugment such as rand-m9-mstd0.5-inc1, or none"
            )

    def check(self, channels: int, bits: int) -> None:
        """ValueError for images that RandAugment is not defined for. timm is imported: forked workers then have it."""
        if channels not in (1, 3) or bits != 8:
            raise ValueError(
                f"RandAugment takes images of 1 or 3 channels of 8 bits, not of {channels} of {bits} bits: "
                "--settings.augment none"
            )
        if len(self.mean) != channels:
            raise ValueError(f"augment mean is {self.mean}: one number for each of {channels} channels")
        _transform(self)

    def __call__(self, view: np.ndarray, key: int) -> np.ndarray:
        """Augment [h, w, C] uint8; random choices depend on the key, at least 0, alone."""
        image = Image.fromarray(np.ascontiguousarray(view[:, :, 0] if view.shape[2] == 1 else view))
        with seeded(key):
            image = _transform(self)(image)
        return np.array(image).reshape(view.shape)


@lru_cache(maxsize=8)
def _transform(augment: Augment) -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform  # timm takes seconds to import

    transform = rand_augment_transform(
        augment.policy,
        {
            "translate_const": int(min(augment.size) * 0.45),
            "img_mean": tuple(min(255, round(255 * x)) for x in augment.mean),
            "interpolation": Image.Resampling.BICUBIC,
        },
    )
    for op in transform.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """Posterize as timm, to black for no bits (magnitude 10), which Pillow refuses now."""
    if bits_to_keep >= 8:
        return image
    return ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, which timm uses, and restore them afterwards."""
    theirs, numpys = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, key >> 32])
    try:
        yield
    finally:
        random.setstate(theirs)
        np.random.set_state(numpys)

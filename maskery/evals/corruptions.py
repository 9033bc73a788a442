"""Common corruptions of images (Hendrycks & Dietterich 2019), made on the fly (extra: robustness).

The definitions are those of the library `imagecorruptions` (the fork imagecorruptions-imaug, Apache-2.0), which carried
the reference code to any image size. Its elastic transform is another one than the paper's; that one is here.

H x W pixels, C channels (1 or 3), uint8
"""

import contextlib
import importlib.util
import io
import zlib
from collections.abc import Iterator

import numpy as np

from ..data.decode.pixels import luma
from ..text import needs_extra

BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)  # the 15 that the paper measures by
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # the paper's, for choosing settings
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels, height and width

# (alpha, sigma, how far the corners of the affine map move) of elastic_transform at 224 pixels, by severity. The
# paper's code says 244, "should have been 224"; ImageNet-C was made with 244.
_ELASTIC = ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88))


def check_corruptible(height: int, width: int, channels: int, bits: int) -> None:
    """ValueError when such images cannot be corrupted, or the library is not installed."""
    if importlib.util.find_spec("imagecorruptions") is None:
        raise ValueError(needs_extra("corrupting images", "imagecorruptions-imaug", "robustness"))
    try:
        import cv2  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f"corruptions need OpenCV, which cannot be loaded: {e} (without a display: pip "
            "uninstall opencv-python, then pip install opencv-python-headless)"
        ) from e
    if channels not in (1, 3) or bits != 8:
        raise ValueError(
            f"corruptions are defined for 1 or 3 channels of 8 bits, these images have {channels} of {bits} bits"
        )
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"corruptions need {SMALLEST} x {SMALLEST} pixels or more, the network sees {height} x {width}"
        )


def corrupt(image: np.ndarray, name: str, severity: int, seed: int, key: int) -> np.ndarray:
    """Corrupt an image [H, W, C] uint8; the result depends on (seed, key, name, severity) alone.

    `key` identifies the image. A grey image gets the noise of one channel, and the luma of everything that has colour.
    numpy's global random state is left as it was.
    """
    if name not in (*BENCHMARK, *EXTRA) or severity not in SEVERITIES:
        raise ValueError(
            f"there is no corruption {name!r} of severity {severity}: {', '.join((*BENCHMARK, *EXTRA))}; 1-5"
        )
    draw = np.random.SeedSequence([seed, key, zlib.crc32(name.encode()), severity]).generate_state(2)
    grey = image.shape[2] == 1
    colour = np.repeat(image, 3, axis=2) if grey else image
    if name == "elastic_transform":
        out = _elastic(colour, severity, np.random.default_rng(draw))
    else:
        import imagecorruptions  # imported late: it compiles code, which takes seconds

        own = {"seed": int(draw[1])} if name in ("impulse_noise", "glass_blur") else {}  # not from numpy's global draws
        with _drawing_from(int(draw[0])), contextlib.redirect_stdout(io.StringIO()):
            out = imagecorruptions.corrupt(np.ascontiguousarray(colour), severity, name, **own)
    if not grey:
        return out
    return out[:, :, :1] if name.endswith("_noise") else luma(out)  # luma would average the noise of three channels


def _elastic(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, then a smooth random displacement of every pixel; lengths in proportion to the image."""
    import cv2
    from scipy.ndimage import gaussian_filter, map_coordinates

    height, width = image.shape[:2]
    alpha, sigma, corners = (value * min(height, width) / 224 for value in _ELASTIC[severity - 1])
    middle, third = np.array([width, height], np.float32) // 2, min(height, width) // 3
    square = np.array([middle + third, [middle[0] + third, middle[1] - third], middle - third], np.float32)
    moved = square + rng.uniform(-corners, corners, square.shape).astype(np.float32)
    flat = cv2.warpAffine(
        image.astype(np.float32),
        cv2.getAffineTransform(square, moved),
        (width, height),
        borderMode=cv2.BORDER_REFLECT_101,
    )
    dx, dy = (
        alpha * gaussian_filter(rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    y, x = np.mgrid[:height, :width]
    planes = [map_coordinates(flat[:, :, c], [y + dy, x + dx], order=1, mode="reflect") for c in range(image.shape[2])]
    return np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)


@contextlib.contextmanager
def opencv_single_thread() -> Iterator[None]:
    """Run OpenCV without its threads: loader processes that are forked while it has some hang when they use it."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the library draws from, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)

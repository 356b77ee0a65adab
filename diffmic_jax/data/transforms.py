"""From a decoded image to what the networks see, on the host.

`prepare` is deterministic, so its result may be kept; `augment` is the random part; `normalise`
comes last and is where bytes become floats.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def prepare(image: np.ndarray, size: int) -> np.ndarray:
    """Centre square crop, then an antialiased bilinear resize.

    `image` is [H, W, 3] uint8, or [H, W] gray, which is repeated. Gives [size, size, 3] uint8; an
    image that already has that shape comes back as it is.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    horizontal_flip: bool = True,
    vertical_flip: bool = False,
    rotation: float = 30.0,
) -> np.ndarray:
    """Each flip with probability one half, then a rotation uniform in +-`rotation` degrees.

    `image` is [H, W, 3] uint8, and so is the result. The rotation is bilinear about the centre;
    what it turns into view is black.
    """
    # Three draws whatever the options, so that turning one off leaves the others as they were.
    mirrored, flipped, turn = rng.random() < 0.5, rng.random() < 0.5, rng.uniform(-1, 1)
    if horizontal_flip and mirrored:
        image = image[:, ::-1]
    if vertical_flip and flipped:
        image = image[::-1]
    if rotation:
        turned = Image.fromarray(image).rotate(turn * rotation, Image.Resampling.BILINEAR)
        image = np.asarray(turned)
    return image


def normalise(image: np.ndarray) -> np.ndarray:
    """Bytes [..., 3] to float32 of the same shape: to [0, 1], then by ImageNet's mean and std."""
    return (image.astype(np.float32) / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD

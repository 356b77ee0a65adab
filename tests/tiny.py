"""A data set of small PNGs and the smallest networks: a whole run in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from diffmic_jax.nn.resnet import STAGE_SIZES

# Two blocks compile in a quarter of the time of ResNet18.
STAGE_SIZES.setdefault("tiny", (1, 1))
CLASSES = ("blue", "green", "red")
TRAIN, TEST, VALIDATION = 24, 9, 6
STEPS_PER_EPOCH = TRAIN // 8
WARMUP, TOTAL = STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH
"""Steps of one guidance epoch, and of it with two joint ones."""


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """`count` images of each class's colour under noise, in a folder per class."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(reversed(CLASSES)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 160, (36, 32, 3), np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(folder / name / f"{name}_{i:02d}.png")


def write_data(root: Path) -> Path:
    """The data set with its three parts."""
    for seed, (part, count) in enumerate(
        {"train": TRAIN, "validation": VALIDATION, "test": TEST}.items()
    ):
        write_images(root / part, count // len(CLASSES), seed)
    return root


def make_config(root: Path, recipe: str = "v1", **changes: object) -> ConfigDict:
    """The configuration of a tiny run; `changes` have two underscores for the dot."""
    c = default.get_config(recipe)
    c.data.root = str(root)
    c.data.image_size = 32
    c.guidance.update(
        backbone="tiny",
        width=8,
        stem="small",
        num_regions=2,
        region_size=16,
        warmup_epochs=1,
    )
    c.denoiser.update(encoder="tiny", width=8, stem="small", feature_dim=16)
    c.train.update(batch_size=8, epochs=2, log_every=2)
    c.sampling.num_steps = 3
    c.sampling.num_samples = 2
    c.eval.update(batch_size=4, bootstrap=20)
    for field, value in changes.items():
        group, _, name = field.rpartition("__")
        (c[group] if group else c)[name] = value
    return c

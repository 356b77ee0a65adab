"""A data set of small PNGs and the smallest networks: a whole run in seconds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from diffmic_jax.api import Experiment
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.state import TrainState
from tests import tiny_trunks  # noqa: F401  (registers `tiny` and `tiny_vit`)

CLASSES = ("blue", "green", "red")
TRAIN, TEST, VALIDATION = 24, 9, 6
STEPS_PER_EPOCH = TRAIN // 8
WARMUP, TOTAL = STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH
"""Steps of one guidance epoch, and of it with two joint ones."""

TWENTY_STEPS = {
    "guidance__warmup_epochs": 0,
    "train__max_steps": 20,
    "train__epochs": 7,
    "train__log_every": 1,
    "checkpoint__every_steps": 20,
}
"""Changes for a run that is compared with one on other devices."""


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
    """The configuration of a tiny run on `write_data`; `changes` as below."""
    return shrunk(default.get_config(recipe), root, **changes)


def shrunk(c: ConfigDict, root: Path, **changes: object) -> ConfigDict:
    """Any configuration with tiny networks; `changes` have two underscores for the dot."""
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
    c.denoiser.update(width=8, stem="small", feature_dim=16, pretrained="")
    if c.recipe not in ("classifier", "gmic"):  # which have none
        c.denoiser.encoder = "tiny"
        c.sampling.update(num_steps=3, num_samples=2)
    if c.recipe == "v2":
        c.denoiser.local_encoder = "tiny"
    c.train.update(batch_size=8, epochs=2, log_every=2)
    c.eval.update(batch_size=4, bootstrap=20)
    for field, value in changes.items():
        group, _, name = field.rpartition("__")
        (c[group] if group else c)[name] = value
    return c


def latest_state(config: ConfigDict, workdir: Path) -> TrainState:
    """The state of the newest checkpoint."""
    with Checkpoints(workdir, config.checkpoint.metric, read_only=True) as checkpoints:
        step = checkpoints.latest_step
        assert step is not None
        return Experiment(config, workdir).restored(checkpoints, step)


def assert_same(left: TrainState, right: TrainState) -> None:
    """Every array of two states is equal, bit by bit."""
    jax.tree.map(np.testing.assert_array_equal, left, right)


def read_predictions(folder: Path) -> dict[str, list[float]]:
    """The class probabilities of each image in a `predictions.csv`."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {
            row["id"]: [float(row[f"prob_{name}"]) for name in CLASSES]
            for row in csv.DictReader(file)
        }


def write_truncated_jpeg(path: Path) -> None:
    """The first half of an image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])

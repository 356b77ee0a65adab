"""A data set of small PNGs and the smallest networks: a whole run in seconds."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from diffmic_jax import recipes
from diffmic_jax.config import Config
from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.data.named import find_images
from diffmic_jax.evaluation.run import validator
from diffmic_jax.inference.classify import classify, table
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.predictions import write_rows
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.state import TrainState, init_variables
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.state import abstract_state
from diffmic_jax.types import Variables
from tests import tiny_trunks  # noqa: F401  (registers `tiny` and `tiny_vit`)
from tests.helpers import arbitrary_variables

CLASSES = ("blue", "green", "red")
TRAIN, TEST, VALIDATION = 24, 9, 6
STEPS_PER_EPOCH = TRAIN // 8
WARMUP, TOTAL = STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH
"""Steps of one guidance epoch, and of it with two joint ones."""

TINY = {
    "data.image_size": 32,
    "model.width": 8,
    "model.stem": "small",
    "guidance.backbone": "tiny",
    "guidance.num_regions": 2,
    "guidance.region_size": 16,
    "guidance.warmup_epochs": 1,
    "denoiser.feature_dim": 16,
    "denoiser.pretrained": "",
    "train.batch_size": 8,
    "train.epochs": 2,
    "train.log_every": 2,
    "eval.batch_size": 4,
    "eval.bootstrap": 20,
}
DIFFUSING = {"denoiser.encoder": "tiny", "sampling.num_steps": 3, "sampling.num_samples": 2}
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


def make_config(root: Path, recipe: str = "v1", **changes: object) -> Config:
    """The configuration of a tiny run on `write_data`; `changes` as below."""
    return shrunk(recipes.get(recipe), root, **changes)


def shrunk(config: Config, root: Path, **changes: object) -> Config:
    """Any configuration with tiny networks; `changes` have two underscores for the dot."""
    tiny = TINY | {"data.root": str(root)}
    if config.denoiser.encoder:
        tiny |= DIFFUSING
    if config.denoiser.local_encoder:
        tiny["denoiser.local_encoder"] = "tiny"
    return config.changed(tiny | {name.replace("__", "."): x for name, x in changes.items()})


def make_method(recipe: str = "v1", *, steps_per_epoch: int = 0, **changes: object) -> Method:
    """A recipe on tiny networks, without data; `changes` as in `shrunk`."""
    config = make_config(Path(), recipe, **changes)
    return build(config, Task(class_names=CLASSES), steps_per_epoch=steps_per_epoch)


def variables_of(method: Method) -> Variables:
    """Arbitrary values for the variables of both networks."""
    shapes = jax.eval_shape(lambda key: init_variables(method, key), jax.random.key(0))
    return arbitrary_variables(shapes)


def open_run(config: Config, workdir: Path) -> TrainingRun:
    """The training run of a configuration, as `api.train` opens it."""
    mesh = parallel.make_mesh(config.train.model_shards)
    return TrainingRun.open(config, workdir, open_dataset(config), mesh)


def train(config: Config, workdir: Path) -> None:
    """Train without evaluating."""
    run = open_run(config, workdir)
    run.train(validator(run))


def latest_state(config: Config, workdir: Path) -> TrainState:
    """The state of the newest checkpoint."""
    run = open_run(config, workdir)
    with Checkpoints(workdir, config.checkpoint.metric, read_only=True) as checkpoints:
        step = checkpoints.latest_step
        assert step is not None
        return checkpoints.restore(step, abstract_state(run.method, run.mesh))


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


def classify_folder(model: Model, folder: Path, out: Path) -> None:
    """The table of predictions of the images in a folder, as `predict` writes it."""
    found = classify(model, find_images([str(folder)]).images)
    write_rows(out, *table(model, found.ids, found.outputs))


def write_truncated_jpeg(path: Path) -> None:
    """The first half of an image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])

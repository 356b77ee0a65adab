"""Where the guidance looks, as a picture for the training log."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from diffmic_jax.data.cache import Examples
from diffmic_jax.method.build import Recipe
from diffmic_jax.method.train_step import guide
from diffmic_jax.nn.preprocess import normalise
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.state import TrainState
from diffmic_jax.types import Array, Batch, Variables

SHOWN = 8
"""Images in a panel."""
LEAST_SIDE = 128
"""Pixels a side of an image in a panel, at least."""


def with_panel(
    validate: Callable[[TrainState], dict[str, float]],
    recipe: Recipe,
    examples: Examples,
    log: TrainingLog,
) -> Callable[[TrainState], dict[str, float]] | None:
    """A validation that also logs the regions on the first images; None if there are no images.

    They stand side by side; the more attention a region gets, the redder its frame.
    """
    if not len(examples):
        return None
    images = examples.images(np.arange(min(SHOWN, len(examples))))

    @jax.jit
    def regions(variables: Variables) -> tuple[Array, Array]:
        batch = Batch(normalise(jnp.asarray(images)), np.zeros(len(images)), np.ones(len(images)))
        guidance = guide(recipe, variables, batch)
        return guidance.corners, guidance.attention

    def run(state: TrainState) -> dict[str, float]:
        corners, attention = map(np.asarray, regions(state.variables()))
        size = recipe.guidance.region_size
        drawn = [draw(*each, size) for each in zip(images, corners, attention, strict=True)]
        log.show("regions", np.concatenate(drawn, axis=1), int(state.step))
        return validate(state)

    return run


def draw(image: np.ndarray, corners: np.ndarray, attention: np.ndarray, size: int) -> np.ndarray:
    """An image [S, S, 3] uint8 with its K regions, enlarged by a whole number."""
    factor = max(1, -(-LEAST_SIDE // len(image)))
    side = factor * len(image)
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    # The strongest last, so that nothing covers it.
    for k in np.argsort(attention):
        row, column = (factor * corners[k]).tolist()
        end = factor * size - 1
        share = float(attention[k] / attention.max())
        ink = (255, round(230 * (1 - share)), 0)
        pen.rectangle((column, row, column + end, row + end), outline=ink, width=2)
    return np.asarray(picture)

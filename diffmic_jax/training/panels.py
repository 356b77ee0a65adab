"""Where the guidance looks, as a picture for the training log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
from PIL import Image, ImageDraw

from diffmic_jax.data.cache import Examples
from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState
from diffmic_jax.method.train_step import guide
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.training.log import TrainingLog
from diffmic_jax.training.loop import Validate
from diffmic_jax.types import Array, Batch, Guidance, Variables

SHOWN = 8
"""Images in a panel."""
LEAST_SIDE = 128
"""Pixels a side of an image in a panel, at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The regions on the first images of a part, side by side; redder frames for more attention."""

    method: Method
    images: np.ndarray
    """[N, S, S, 3] uint8."""
    log: TrainingLog

    @classmethod
    def of(cls, method: Method, examples: Examples, log: TrainingLog) -> Panel | None:
        """A panel of the part's first images; None without images or regions."""
        if not len(examples) or not isinstance(method.guidance, DCG):
            return None
        images = examples.images(np.arange(min(SHOWN, len(examples))))
        return cls(method=method, images=images, log=log)

    def before(self, validate: Validate) -> Validate:
        """A validation that logs the panel first."""

        def run(state: TrainState) -> dict[str, float]:
            self.show(state)
            return dict(validate(state))

        return run

    def show(self, state: TrainState) -> None:
        """Log the panel of a state."""
        picture = draw(
            compiled_guide(self.method)(state.variables(), self.images), self.images, self._size
        )
        self.log.show("regions", picture, int(state.step))

    @property
    def _size(self) -> int:
        return self.method.guidance.region_size


@lru_cache(maxsize=4)
def compiled_guide(method: Method) -> Callable[[Variables, np.ndarray], Guidance]:
    """A compiled function (variables, images [N, S, S, 3] uint8) -> guidance prediction."""

    @jax.jit
    def run(variables: Variables, images: Array) -> Guidance:
        count = len(images)
        image = method.preprocess.normalise(images)
        return guide(method, variables, Batch(image, np.zeros(count), np.ones(count)))

    return run


def draw(guidance: Guidance, images: np.ndarray, size: int) -> np.ndarray:
    """Images [N, S, S, 3] uint8 with their regions of `size` px, side by side."""
    corners, attention = np.asarray(guidance.corners), np.asarray(guidance.attention)
    each = zip(images, corners, attention, strict=True)
    return np.concatenate([draw_regions(*one, size) for one in each], axis=1)


def draw_saliency(merged: np.ndarray, side: int) -> np.ndarray:
    """Maps [N, h, w] side by side, `side` px high; each cell is a square, brighter for more."""
    pictures = []
    for one in merged:
        scaled = (one - one.min()) / max(float(np.ptp(one)), 1e-9)
        gray = Image.fromarray(np.rint(255 * scaled).astype(np.uint8)).convert("RGB")
        pictures.append(np.asarray(gray.resize((side, side), Image.Resampling.NEAREST)))
    return np.concatenate(pictures, axis=1)


def draw_regions(
    image: np.ndarray, corners: np.ndarray, attention: np.ndarray, size: int
) -> np.ndarray:
    """An image [S, S, 3] uint8 with its K regions, enlarged by a whole number."""
    factor = max(1, -(-LEAST_SIDE // len(image)))
    side = factor * len(image)
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    attention = np.nan_to_num(attention, posinf=0.0)
    strongest = attention.max(initial=0.0) or 1.0
    # The strongest last, so that nothing covers it.
    for k in np.argsort(attention):
        row, column = (factor * corners[k]).tolist()
        end = factor * size - 1
        share = float(attention[k] / strongest)
        ink = (255, round(230 * (1 - share)), 0)
        pen.rectangle((column, row, column + end, row + end), outline=ink, width=2)
    return np.asarray(picture)

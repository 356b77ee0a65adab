"""One uploaded image at a time, from its bytes to what the page shows of it."""

from __future__ import annotations

import io

import numpy as np

from diffmic_jax.data.framing import Framing
from diffmic_jax.data.images import decode
from diffmic_jax.data.transforms import prepare
from diffmic_jax.inference.load import Model
from diffmic_jax.inference.predictions import Outputs
from diffmic_jax.report.cases import Case, Original, make_explainer
from diffmic_jax.training import parallel
from diffmic_jax.types import Batch

MAX_PIXELS = 40_000_000
"""Width times height of an upload, whatever more the run takes: decoded, it is 120 MB."""


class ImageClassifier:
    """Classifies image files, one at a time."""

    def __init__(self, model: Model) -> None:
        """Nothing is compiled yet."""
        self.model = model
        self._explain = make_explainer(model)

    def compile(self) -> None:
        """Compile for one image; otherwise the first one does."""
        size = self.model.config.data.image_size
        black = np.zeros((size, size, 3), np.uint8)
        self._outputs(black)
        self._case(black)

    def classify(self, data: bytes, name: str) -> tuple[Outputs, Original]:
        """The outputs for an image file, as for one in a folder, and the image.

        Raises:
          InputError: naming the file and what is wrong with it.
        """
        pixels = self._decoded(data, name)
        prepared = prepare(pixels, self.model.config.data.image_size)
        return self._outputs(prepared), Original.of(pixels)

    def explain(self, data: bytes, name: str) -> tuple[Outputs, Case, Original]:
        """The outputs for an image file, the case, and the image. Errors as in `classify`."""
        pixels = self._decoded(data, name)
        image = prepare(pixels, self.model.config.data.image_size)
        return self._outputs(image), self._case(image), Original.of(pixels)

    def _decoded(self, data: bytes, name: str) -> np.ndarray:
        """The pixels [H, W, 3] of an image file, framed."""
        own = self.model.config.data
        largest = min(own.max_pixels, MAX_PIXELS)
        pixels = decode(io.BytesIO(data), name, largest, own.gray_bits).pixels
        return Framing.of(own).frame(pixels, name)

    def _outputs(self, image: np.ndarray) -> Outputs:
        rows = parallel.padded_batch_size(self.model.mesh, 1)
        mask = (np.arange(rows) == 0).astype(np.float32)
        return self.model.predictor(self._batch(image, mask), self.model.sampling_key)

    def _case(self, image: np.ndarray) -> Case:
        return self._explain(self._batch(image, np.ones(1, np.float32)))

    def _batch(self, image: np.ndarray, mask: np.ndarray) -> Batch:
        """The image in every row; the labels are not used."""
        zeros = np.zeros(len(mask), np.int32)
        return Batch(np.repeat(image[None], len(mask), axis=0), zeros, mask)

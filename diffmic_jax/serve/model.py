"""One uploaded image at a time, from its bytes to everything that a page shows of it."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np

from diffmic_jax.data.files import called, joined
from diffmic_jax.data.images import decode
from diffmic_jax.data.transforms import prepare
from diffmic_jax.evaluation import evaluate, uncertainty
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import load_classifier
from diffmic_jax.report.cases import Case, make_look
from diffmic_jax.report.collect import Results
from diffmic_jax.training.state import Purpose, run_key
from diffmic_jax.types import Batch


class Model:
    """A workdir's classifier behind a page; calls may come from several threads."""

    def __init__(self, workdir: Path, coverage: float = uncertainty.COVERAGE) -> None:
        """Load the best checkpoint and compile.

        Raises:
          InputError: if the folder holds none.
        """
        self.classifier = load_classifier(workdir)
        config = self.classifier.config
        recipe = self.classifier.recipe
        self.timesteps = recipe.sampling.timesteps
        self._coverage = coverage
        self._calibration = calibration.read(
            workdir, self.classifier.step, config.sampling
        ).diffusion
        self.thresholds = self._calibration.thresholds if self._calibration else ()
        predictor = evaluate.make_predictor(recipe, self.classifier.mesh)
        self._predict = predictor(self.classifier.variables)
        self._look = make_look(recipe)
        self._key = run_key(config.seed, Purpose.SAMPLING)
        # One image at a time: the machine's cores work together on each.
        self._turn = threading.Lock()
        size = config.data.image_size
        self._run(np.zeros((size, size, 3), np.uint8))

    @property
    def region_size(self) -> int:
        """Side of a region in pixels."""
        return self.classifier.recipe.guidance.region_size

    def answer(self, data: bytes, name: str) -> tuple[Results, Case]:
        """What the model says of an image file.

        Raises:
          InputError: naming the file and what is wrong with it.
        """
        config = self.classifier.config
        pixels = decode(io.BytesIO(data), name, config.data.max_pixels).pixels
        answers, case = self._run(prepare(pixels, config.data.image_size))
        return self._results(answers, name), case

    def _run(self, image: np.ndarray) -> tuple[evaluate.Answers, Case]:
        """Answers and case of one prepared image [S, S, 3]."""
        rows = len(self.classifier.mesh.devices.flat)
        images = np.repeat(image[None], rows, axis=0)
        zeros = np.zeros(rows, np.int32)
        mask = np.arange(rows, dtype=np.float32) == 0
        # The first image of a folder has the same draws.
        batch = Batch(images, zeros, mask.astype(np.float32), zeros)
        one = Batch(images[:1], zeros[:1], np.ones(1, np.float32), zeros[:1])
        with self._turn:
            return (
                self._predict(batch, self._key),
                self._look(self.classifier.variables, one, self._key),
            )

    def _results(self, answers: evaluate.Answers, name: str) -> Results:
        p, names = answers.probabilities, self.classifier.class_names
        multi_label = self.classifier.multi_label
        low, high = uncertainty.draw_interval(answers.draws)
        calibrated, sets = None, None
        if self._calibration:
            calibrated = uncertainty.tempered(self._calibration, p)
            if not multi_label:
                chosen = uncertainty.prediction_sets(self._calibration, p, self._coverage)
                sets = [joined(names, row) for row in chosen]
        return Results(
            scores={},
            ids=[name],
            class_names=names,
            label=None,
            prediction=called(names, p, multi_label=multi_label, thresholds=self.thresholds),
            probabilities=p,
            guidance=answers.guidance,
            spread=answers.spread,
            vote=uncertainty.vote_share(answers.draws, multi_label),
            low=low,
            high=high,
            calibrated=calibrated,
            sets=sets,
            log=[],
            multi_label=multi_label,
        )

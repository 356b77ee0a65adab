"""The calibration that a run ends with."""

from __future__ import annotations

import shutil

from diffmic_jax.api import open_run
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import load_classifier
from tests import tiny


def test_a_run_ends_with_a_calibration_of_its_validation_part(trained):
    classifier = load_classifier(trained)
    found = calibration.read(trained, classifier.step, classifier.config.sampling)
    assert len(found.diffusion.scores) == len(found.guidance.scores) == tiny.VALIDATION
    assert found.diffusion.temperature > 0
    assert found.diffusion != found.guidance


def test_calibrating_again_gives_the_same_bytes(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "run")
    before = (copy / "calibration.json").read_bytes()
    (copy / "calibration.json").unlink()
    open_run(copy).calibrate()
    assert (copy / "calibration.json").read_bytes() == before

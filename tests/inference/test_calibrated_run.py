"""The calibration that a run ends with."""

from __future__ import annotations

import shutil

from diffmic_jax.data.dataset import open_dataset
from diffmic_jax.evaluation.run import calibrate
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import load
from tests import tiny


def test_a_run_ends_with_a_calibration_of_its_validation_part(trained):
    model = load(trained)
    found = calibration.read(trained, model.step, model.config.sampling)
    assert len(found.diffusion.scores) == len(found.guidance.scores) == tiny.VALIDATION
    assert found.diffusion.temperature > 0
    assert found.diffusion != found.guidance


def test_calibrating_again_gives_the_same_bytes(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "run")
    before = (copy / "calibration.json").read_bytes()
    (copy / "calibration.json").unlink()
    model = load(copy)
    calibrate(model, open_dataset(model.config))
    assert (copy / "calibration.json").read_bytes() == before

from __future__ import annotations

import dataclasses
import shutil

import pytest

from diffmic_jax.api import open_run
from diffmic_jax.errors import InputError
from diffmic_jax.inference import calibration
from diffmic_jax.inference.load import load_classifier
from tests import tiny


def test_a_run_ends_with_a_calibration_of_its_validation_part(trained):
    classifier = load_classifier(trained)
    found = calibration.read(trained, classifier.step, classifier.config.sampling)
    assert len(found.diffusion.scores) == len(found.guidance.scores) == tiny.VALIDATION
    assert found.diffusion.temperature > 0
    assert found.diffusion != found.guidance


def test_a_calibration_fits_one_checkpoint_and_one_sampling(trained):
    classifier = load_classifier(trained)
    sampling = classifier.config.sampling
    known = calibration.read(trained, classifier.step, sampling)
    assert calibration.read(trained, classifier.step + 1, sampling) == calibration.Calibrations()
    sampling.num_samples = 7
    other = calibration.read(trained, classifier.step, sampling)
    # The guidance draws nothing.
    assert other == calibration.Calibrations(None, known.guidance)


def test_what_is_written_is_read_back(trained, tmp_path):
    config = load_classifier(trained).config
    scores = calibration.Calibration(0.5, 0.1, (0.1, 0.2), False)
    both = calibration.Calibrations(scores, dataclasses.replace(scores, uniform=0.0))
    calibration.write(tmp_path, both, 3, config.sampling)
    assert calibration.read(tmp_path, 3, config.sampling) == both


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 3}'])
def test_a_damaged_calibration_is_named(trained, tmp_path, text):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="calibration.json: is no calibration"):
        calibration.read(tmp_path, 3, load_classifier(trained).config.sampling)


def test_calibrating_again_gives_the_same_bytes(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "run")
    before = (copy / "calibration.json").read_bytes()
    (copy / "calibration.json").unlink()
    open_run(copy).calibrate()
    assert (copy / "calibration.json").read_bytes() == before

"""A training learns: what no test of its parts would notice if they were put together wrongly."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from tests import tiny

pytestmark = pytest.mark.whole

PARTS = {"train": 40, "validation": 8, "test": 30}
"""Images of each class."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """Workdir of our own recipe on classes that differ in colour, under noise."""
    folder = tmp_path_factory.mktemp("learned")
    for seed, (part, count) in enumerate(PARTS.items()):
        tiny.write_images(folder / "data" / part, count, seed)
    config = tiny.make_config(
        folder / "data",
        "plus",
        guidance__learning_rate=2e-3,
        guidance__warmup_epochs=4,
        denoiser__pretrained="guidance",
        sampling__num_steps=1,
        sampling__flips="none",
        train__epochs=4,
    )
    api.train(config, folder / "run")
    return folder / "run"


def test_guidance_and_diffusion_are_far_above_chance(learned):
    scores = json.loads((learned / "eval/test/metrics.json").read_text())
    # Chance is 0.33, with a standard deviation of 0.05 for 90 images; a guess has an NLL of 1.10.
    for found in (scores["guidance"], scores):
        assert found["n"] == 90
        assert found["accuracy"] > 0.8
        assert found["nll"] < 0.8


def test_an_answer_is_the_mean_of_the_guidance_and_both_samples(learned):
    predictions = tiny.read_predictions(learned / "eval/test")
    # Both samples lie within low and high alike.
    with (learned / "eval/test/uncertainty.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    gaps = []
    for row in rows:
        low, high, guidance = (
            np.array([float(row[f"{kind}_{name}"]) for name in tiny.CLASSES])
            for kind in ("low", "high", "guidance")
        )
        np.testing.assert_allclose(predictions[row["id"]], (low + high + guidance) / 3, atol=1e-5)
        np.testing.assert_allclose(guidance.sum(), 1, atol=1e-5)
        gaps.append(np.abs(high - low).max())
    assert len(gaps) == len(predictions) == 90
    assert np.median(gaps) > 1e-3


def test_it_is_reported(learned):
    assert cli.main(["report", f"--workdir={learned}"]) == 0

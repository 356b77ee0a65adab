"""Losses of classifiers without diffusion learn the phantom; minutes on two cores, so on demand:

scripts/test -m slow
"""

from __future__ import annotations

import json

import pytest

from configs import quickstart
from diffmic_jax import experiment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("classifier", {}),
        ("classifier", {"loss": "focal"}),
        ("classifier", {"loss": "ohem"}),
        ("classifier", {"class_weights": "balanced"}),
        ("classifier", {"loss": "logit_adjusted"}),
        ("classifier", {"loss": "ldam", "class_weights": "deferred"}),
        ("gmic", {}),
    ],
)
def test_a_baseline_is_above_chance(tmp_path, recipe, changes):
    config = quickstart.get_config(recipe)
    config.guidance.update(warmup_epochs=0, **changes)
    config.train.epochs = 5
    experiment.run(config, tmp_path / "run", "train")
    scores = json.loads((tmp_path / "run/eval/test/metrics.json").read_text())
    # Chance is 0.25, with a standard deviation of 0.021 for 420 images.
    assert scores["accuracy"] > 0.35

"""Denoisers trained where the probability of each class given the features is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import known_posterior
from diffmic_jax.data.files import read_table
from diffmic_jax.types import Prior
from tests.tiny import make_method

STEPS = 400


def total_variation(row: str) -> float:
    """Mean distance between predicted and true probabilities, 0..1, after a short training."""
    method = known_posterior.make_method(row, STEPS)
    assert method.on_features
    return known_posterior.measure(method, seed=0)["last"]


@pytest.mark.parametrize("row", ["plain", "v", "y0", "edm", "posterior"])
def test_a_network_of_the_label_learns_the_posterior(row):
    assert total_variation(row) < 0.15


def test_the_last_step_alone_gives_it_too():
    method = known_posterior.make_method("y0", STEPS, sampling__readout="clip")
    assert known_posterior.measure(method, seed=0)["last"] < 0.15


def test_a_denoiser_of_the_noise_learns_it_not_in_that_time():
    assert total_variation("eps") > 0.3


def test_of_few_examples_the_best_look_is_kept():
    method = known_posterior.make_method("plain", 400)
    few = known_posterior.measure(method, seed=0, examples=256, parts=20, held=250)
    assert few["chosen"] < few["last"]


def test_every_network_has_a_line_for_each_seed(tmp_path, monkeypatch):
    flags = [f"--out={tmp_path}", "--rows=linear", "--seeds=2", "--steps=2", "--few_steps=40"]
    monkeypatch.setattr("sys.argv", ["known_posterior.py", *flags])
    known_posterior.main()
    lines = read_table(tmp_path / "study.csv")
    assert [(line["row"], line["seed"]) for line in lines] == [("linear", "0"), ("linear", "1")]
    for name in ("2.last", "40_of_1000.last", "40_of_1000.chosen"):
        assert 0 < float(lines[0][name]) < 1
        assert lines[0][name] != lines[1][name]


def test_the_start_has_the_noise_of_its_timestep():
    noise = np.float32([[[1.0, -2.0, 0.5]]])
    prior = Prior(np.full((1, 3), 1 / 3, np.float32), np.zeros((1, 0)), 0)
    for start, first in (("full", 999), ("truncated", 9)):
        method = make_method(
            sampling__num_steps=10, sampling__start=start, sampling__start_std="matched"
        )
        assert method.sampling.timesteps[0] == first
        std = np.sqrt(1 - method.schedule.alpha_bar[first])
        np.testing.assert_allclose(
            method.sampling.initial(prior, noise), prior.mean + std * noise, rtol=1e-6
        )

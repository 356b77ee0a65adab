"""Priors: distributions, their conditions, and the reference's."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffmic_jax.diffusion import priors
from diffmic_jax.diffusion.priors import dual_priors, fused_priors
from diffmic_jax.types import Guidance
from tests.golden_weights import stored_guidance
from tests.helpers import channels_last, check


@pytest.fixture
def guidance() -> Guidance:
    global_, local = np.random.default_rng(0).standard_normal((2, 4, 5))
    nothing = np.zeros(0)
    return Guidance((global_ + local) / 2, global_, local, nothing, nothing, nothing, nothing)


@pytest.mark.parametrize("make", [fused_priors, dual_priors])
def test_means_are_distributions(guidance, make):
    for prior in make(guidance):
        np.testing.assert_allclose(prior.mean.sum(-1), 1, rtol=1e-5)
        assert np.all(prior.mean > 0)


def test_fused_shares_one_projection(guidance):
    streams = fused_priors(guidance)
    assert [prior.projection for prior in streams] == [0, 0, 0]
    for prior, logits in zip(streams, guidance[:3], strict=True):
        np.testing.assert_allclose(prior.mean, jax.nn.softmax(logits), rtol=1e-6)
        np.testing.assert_array_equal(prior.condition, prior.mean)


def test_dual_shows_each_stream_its_own(guidance):
    main, first, second = dual_priors(guidance)
    assert [prior.projection for prior in (main, first, second)] == [0, 1, 2]
    np.testing.assert_allclose(main.mean, (first.mean + second.mean) / 2, rtol=1e-6)
    np.testing.assert_array_equal(
        main.condition, np.concatenate([first.mean, second.mean], axis=-1)
    )
    np.testing.assert_allclose(first.mean, jax.nn.softmax(guidance.global_), rtol=1e-6)
    np.testing.assert_allclose(second.condition, jax.nn.softmax(guidance.local), rtol=1e-6)


def test_golden_means(golden):
    g = golden("train_step")
    priors = fused_priors(stored_guidance(golden("dcg")))
    for prior, name in zip(priors, ("y0_hat", "y0_global", "y0_local"), strict=True):
        check(f"prior {name}", prior.mean, g[name], 1e-6)


@pytest.mark.parametrize("size", [2, 6, 7])
def test_golden_map(golden, size):
    g = golden("v2_parts")
    ours = priors.guidance_map(g["y_g"], g["y_l"], size)
    check(f"guidance map {size}", ours, channels_last(g[f"map_np{size}"]), 1e-6)


def test_a_map_of_one_cell_is_the_global_branch(guidance):
    (prior,) = priors.map_priors(guidance, size=1)
    np.testing.assert_allclose(prior.condition[:, 0, 0], guidance.global_, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "width"),
    [(priors.no_priors, 0), (priors.global_priors, 5), (priors.local_priors, 5)],
)
def test_without_a_map_the_mean_is_zero_and_the_guidance_a_condition(guidance, make, width):
    (prior,) = make(guidance)
    assert prior.condition.shape == (4, width)
    np.testing.assert_array_equal(prior.mean, np.zeros((4, 5)))
    if width:
        branch = guidance.global_ if make is priors.global_priors else guidance.local
        np.testing.assert_array_equal(prior.condition, branch)


def test_the_reverse_process_starts_around_mean_or_map(guidance):
    (prior,) = priors.map_priors(guidance, size=3)
    noise = np.random.default_rng(1).standard_normal((4, 3, 3, 5))
    np.testing.assert_allclose(priors.start_at_mean(prior, noise), noise, rtol=1e-6)
    np.testing.assert_allclose(
        priors.start_at_map(prior, noise) - prior.condition, noise, atol=1e-5
    )
    start = np.asarray(priors.start_at_random_map(prior, noise))
    assert np.all((start >= 0) & (start < 1))
    for corner in (0, -1):
        vector = jax.scipy.stats.norm.cdf(noise[:, 0, corner])
        np.testing.assert_allclose(start[:, 0, corner], vector, rtol=1e-5)
    np.testing.assert_allclose(start[:, 1, 1], start[:, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(start[:, 0, 1], (start[:, 0, 0] + start[:, 0, 2]) / 2, rtol=1e-6)
    many = np.random.default_rng(2).standard_normal((4000, 3, 3, 5))
    wide = prior._replace(mean=np.zeros((4000, 3, 3, 5)))
    flat = np.asarray(priors.start_at_random_map(wide, many))[:, 0, 2]
    np.testing.assert_allclose([flat.mean(), flat.var()], [1 / 2, 1 / 12], atol=0.005)

"""Priors: distributions, their conditions, and the reference's."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffmic_jax.diffusion.priors import dual_priors, fused_priors
from diffmic_jax.types import Guidance
from tests.golden_weights import stored_guidance
from tests.helpers import check


@pytest.fixture
def guidance() -> Guidance:
    global_, local = np.random.default_rng(0).standard_normal((2, 4, 5))
    nothing = np.zeros(0)
    return Guidance((global_ + local) / 2, global_, local, nothing, nothing, nothing, nothing)


@pytest.mark.parametrize("priors", [fused_priors, dual_priors])
def test_means_are_distributions(guidance, priors):
    for prior in priors(guidance):
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

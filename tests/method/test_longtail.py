"""Losses for long-tailed classes, by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import losses
from diffmic_jax.method import longtail


def test_focal_loss_is_cross_entropy_where_gamma_is_0_and_less_for_what_is_easy():
    logits, target = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])), jnp.eye(2)
    np.testing.assert_allclose(
        longtail.focal_loss(logits, target, 0.0), losses.cross_entropy(logits, target), rtol=1e-6
    )
    expected = [-(0.1**2) * np.log(0.9), -(0.2**2) * np.log(0.8)]
    np.testing.assert_allclose(longtail.focal_loss(logits, target), expected, rtol=1e-5)


def test_hard_examples_are_the_largest_losses_of_the_batch():
    loss = jnp.array([0.1, 3.0, 0.2, 2.0])
    found = longtail.hard_examples(loss, share=0.5)
    np.testing.assert_allclose(found, [0, 6, 0, 4])
    assert float(found.mean()) == pytest.approx(2.5)
    # Of a small batch at least one.
    np.testing.assert_allclose(longtail.hard_examples(loss[:2], share=0.1), [0, 6])
    gradient = jax.grad(lambda x: longtail.hard_examples(x, share=0.5).mean())(loss)
    np.testing.assert_allclose(gradient, [0, 0.5, 0, 0.5])


def test_logit_adjustment_is_bayes_rule():
    """Probabilities for equally frequent classes become those for the frequencies in training."""
    balanced, counts = np.array([[0.5, 0.5], [0.9, 0.1]]), (30, 10)
    frequent = balanced * counts
    frequent /= frequent.sum(axis=1, keepdims=True)
    found = longtail.logit_adjusted(jnp.log(balanced), jnp.array([[0, 1], [1, 0]]), counts)
    np.testing.assert_allclose(found, -np.log([frequent[0, 1], frequent[1, 0]]), rtol=1e-5)


def test_ldam_takes_the_margin_from_the_true_class():
    cosine, counts = jnp.array([[30 * 0.6, 30 * 0.2]] * 2), (16, 1)
    found = longtail.ldam(cosine, jnp.eye(2), counts)
    # The margins are 0.5 and, for sixteen times as many images, half of that.
    expected = [np.log1p(np.exp(30 * (0.2 - 0.35))), np.log1p(np.exp(30 * (0.6 + 0.3)))]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def contrast_by_hand(z, prototypes, label, temperature):
    """As the docstring has it, image by image."""
    found = []
    for i, own in enumerate(z):
        members = {
            c: [p, *(z[k] for k in range(len(z)) if k != i and label[k] == c)]
            for c, p in enumerate(prototypes)
        }
        score = {c: np.exp(np.stack(m) @ own / temperature) for c, m in members.items()}
        total = sum(each.mean() for each in score.values())
        found.append(-np.log(score[label[i]] / total).mean())
    return found


def test_the_prototype_contrast_by_hand():
    rng = np.random.default_rng(0)
    features, prototypes = rng.standard_normal((6, 4)), rng.standard_normal((3, 4))
    z, p = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, prototypes))
    label = np.array([0, 0, 1, 0, 0, 1])  # no image of the last class, but its prototype
    found = longtail.prototype_contrast(features, z @ p.T, np.eye(3)[label], 0.5)
    np.testing.assert_allclose(found, contrast_by_hand(z, p, label, 0.5), rtol=1e-5)


def test_the_prototype_contrast_does_not_count_the_images_of_a_class():
    """Copies of a class's image leave that class's pull on the others as it was."""
    one, many = ([0, 1], [0, 1, 1, 1])
    z, p = np.eye(3)[[0, 1]], np.eye(3)[:2]
    few = longtail.prototype_contrast(z[one], z[one] @ p.T, np.eye(2)[one])
    more = longtail.prototype_contrast(z[many], z[many] @ p.T, np.eye(2)[many])
    assert float(more[0]) == pytest.approx(float(few[0]), rel=1e-5)
    assert float(few[0]) == pytest.approx(np.log1p(np.exp(-10)), rel=1e-2)


def test_the_prototype_contrast_has_a_gradient_where_all_features_are_0():
    def loss(features):
        return longtail.prototype_contrast(features, features[:, :2], jnp.eye(2)).sum()

    assert np.isfinite(jax.grad(loss)(jnp.zeros((2, 3)))).all()


def test_class_weights_are_of_the_effective_number_of_images():
    weights = longtail.class_weights((1, 2, 1000), beta=0.5)
    np.testing.assert_allclose(weights[0] / weights[1], 1.5, rtol=1e-6)
    np.testing.assert_allclose(weights[0] / weights[2], 2, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)
    rare, common = longtail.class_weights((10, 1000))
    assert 90 < rare / common < 100


def test_a_class_without_images_changes_nothing_for_the_others():
    logits, target = jnp.array([[3.0, 1.0], [2.0, 5.0]]), jnp.eye(2)
    wider, beside = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-99), jnp.eye(2, 3)
    weights = longtail.class_weights((500, 50, 0))
    np.testing.assert_allclose(weights[:2], longtail.class_weights((500, 50)))
    assert weights[2] == 0
    np.testing.assert_allclose(
        longtail.ldam(wider, beside, (16, 1, 0)), longtail.ldam(logits, target, (16, 1)), rtol=1e-5
    )
    found = longtail.logit_adjusted(wider, beside, (16, 1, 0))
    expected = losses.cross_entropy(wider + np.log(np.array([16, 1, 1]) / 18), beside)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # as common as a class of one image

"""Losses by hand and against the reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion import losses
from tests.helpers import check


@pytest.mark.parametrize("i", range(4))
def test_golden_mmd(golden, i):
    g = golden("mmd")
    x, y = g[f"x{i}"], g[f"y{i}"]
    check(f"kernel{i}", losses.gaussian_kernel(x, y), g[f"kernel{i}"], 1e-6)
    check(f"mmd{i}", losses.mmd(x, y), g[f"mmd{i}"], 1e-6)


def test_golden_mmd_gradient(golden):
    g = golden("mmd")
    gradient = jax.grad(losses.mmd, argnums=1)(g["x2"], g["y2"])
    check("mmd2 gradient", gradient, g["mmd2_grad_y"], 1e-7)


def test_mmd_of_two_points_by_hand():
    a, b = np.array([[0.0, 0.0]]), np.array([[2.0, 0.0]])
    # mean_d (a - b)^2 = 2, over C = 2: k = exp(-1).
    np.testing.assert_allclose(losses.gaussian_kernel(a, b), [[np.exp(-1)]], rtol=1e-6)
    np.testing.assert_allclose(losses.mmd(a, b), 2 - 2 * np.exp(-1), rtol=1e-6)


def test_mmd_tells_distributions_apart():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 500, 3))
    assert losses.mmd(a, a) == pytest.approx(0, abs=1e-6)
    assert losses.mmd(a, b) < 0.01
    assert losses.mmd(a, b + 3) > 10 * losses.mmd(a, b)


def test_noise_mse_is_per_image():
    eps, eps_hat = np.zeros((2, 3, 3, 4)), np.zeros((2, 3, 3, 4))
    eps_hat[1] = 2
    np.testing.assert_array_equal(losses.noise_mse(eps, eps_hat), [0, 4])


def test_cross_entropy():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]) + 5
    target = np.array([[1, 0, 0], [0, 0.5, 0.5]])
    expected = -np.log([0.7, np.sqrt(0.1 * 0.8)])
    np.testing.assert_allclose(losses.cross_entropy(logits, target), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "gamma", "alpha"), [("focal", 1, 10), ("focal_g2_a3", 2, 3)])
def test_golden_focal(golden, name, gamma, alpha):
    g = golden("v2_parts")
    confidence = losses.likelihood(g["prior"], g["targets"])
    weight = losses.focal_weight(confidence, gamma, alpha)
    ours = (weight * losses.noise_mse(g["noise_gt"], g["noise"])).mean()
    check(name, ours, g[name], 1e-5)


def test_the_likelihood_of_many_labels_is_a_mean_over_them():
    logits, target = np.array([[2.0, -1.0, 0.0]]), np.array([[1, 0, 1]])
    p = 1 / (1 + np.exp(-logits))
    expected = np.where(target, p, 1 - p).mean()
    np.testing.assert_allclose(losses.binary_likelihood(logits, target), [expected], rtol=1e-6)


# For skewed classes.


def test_focal_loss_is_cross_entropy_where_gamma_is_0_and_less_for_what_is_easy():
    logits, target = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])), jnp.eye(2)
    np.testing.assert_allclose(
        losses.focal_loss(logits, target, 0.0), losses.cross_entropy(logits, target), rtol=1e-6
    )
    expected = [-(0.1**2) * np.log(0.9), -(0.2**2) * np.log(0.8)]
    np.testing.assert_allclose(losses.focal_loss(logits, target), expected, rtol=1e-5)


def test_hard_examples_are_the_largest_losses_of_the_batch():
    loss = jnp.array([0.1, 3.0, 0.2, 2.0])
    found = losses.hard_examples(loss, share=0.5)
    np.testing.assert_allclose(found, [0, 6, 0, 4])
    assert float(found.mean()) == pytest.approx(2.5)
    gradient = jax.grad(lambda x: losses.hard_examples(x, share=0.5).mean())(loss)
    np.testing.assert_allclose(gradient, [0, 0.5, 0, 0.5])


def test_logit_adjustment_is_bayes_rule():
    """Probabilities for equally frequent classes become those for the frequencies in training."""
    balanced, counts = np.array([[0.5, 0.5], [0.9, 0.1]]), (30, 10)
    frequent = balanced * counts
    frequent /= frequent.sum(axis=1, keepdims=True)
    found = losses.logit_adjusted(jnp.log(balanced), jnp.array([[0, 1], [1, 0]]), counts)
    np.testing.assert_allclose(found, -np.log([frequent[0, 1], frequent[1, 0]]), rtol=1e-5)


def test_ldam_takes_the_margin_from_the_true_class():
    cosine, counts = jnp.array([[30 * 0.6, 30 * 0.2]] * 2), (16, 1)
    found = losses.ldam(cosine, jnp.eye(2), counts)
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
    found = losses.prototype_contrast(features, z @ p.T, np.eye(3)[label], 0.5)
    np.testing.assert_allclose(found, contrast_by_hand(z, p, label, 0.5), rtol=1e-5)


def test_the_prototype_contrast_does_not_count_the_images_of_a_class():
    """Copies of a class's image leave that class's pull on the others as it was."""
    one, many = ([0, 1], [0, 1, 1, 1])
    z, p = np.eye(3)[[0, 1]], np.eye(3)[:2]
    few = losses.prototype_contrast(z[one], z[one] @ p.T, np.eye(2)[one])
    more = losses.prototype_contrast(z[many], z[many] @ p.T, np.eye(2)[many])
    assert float(more[0]) == pytest.approx(float(few[0]), rel=1e-5)
    assert float(few[0]) == pytest.approx(np.log1p(np.exp(-10)), rel=1e-2)


def test_the_prototype_contrast_has_a_gradient_where_all_features_are_0():
    def loss(features):
        return losses.prototype_contrast(features, features[:, :2], jnp.eye(2)).sum()

    assert np.isfinite(jax.grad(loss)(jnp.zeros((2, 3)))).all()


def test_class_weights_are_of_the_effective_number_of_images():
    weights = losses.class_weights((1, 2, 1000), beta=0.5)
    np.testing.assert_allclose(weights[0] / weights[1], 1.5, rtol=1e-6)
    np.testing.assert_allclose(weights[0] / weights[2], 2, rtol=1e-6)
    assert weights.mean() == pytest.approx(1)
    rare, common = losses.class_weights((10, 1000))
    assert 90 < rare / common < 100


def test_a_class_without_images_changes_nothing_for_the_others():
    logits, target = jnp.array([[3.0, 1.0], [2.0, 5.0]]), jnp.eye(2)
    wider, beside = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-99), jnp.eye(2, 3)
    weights = losses.class_weights((500, 50, 0))
    np.testing.assert_allclose(weights[:2], losses.class_weights((500, 50)))
    assert weights[2] == 0
    np.testing.assert_allclose(
        losses.ldam(wider, beside, (16, 1, 0)), losses.ldam(logits, target, (16, 1)), rtol=1e-5
    )
    assert np.isfinite(losses.logit_adjusted(wider, beside, (16, 1, 0))).all()

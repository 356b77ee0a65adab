from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.diffusion.link import SIGMOID, SOFTMAX
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import SCALARS, Task

SINGLE = Task(class_names=("a", "b", "c"))
SEVERAL = Task(class_names=("a", "b", "c"), multi_label=True)


def test_multi_hot_labels_are_their_own_targets():
    label = np.array([[0, 1, 1], [1, 0, 0]])
    for found in (SEVERAL.targets(jnp.asarray(label)), SEVERAL.multi_hot(label)):
        np.testing.assert_array_equal(found, label)
    for found in (SINGLE.targets(np.array([2, 0])), SINGLE.multi_hot(np.array([2, 0]))):
        np.testing.assert_array_equal(found, np.eye(3)[[2, 0]])
    assert SEVERAL.targets(label).dtype == SINGLE.targets(np.array([2])).dtype == np.float32
    assert SEVERAL.multi_hot(label).dtype == SINGLE.multi_hot(np.array([2])).dtype == np.float64


def test_the_link_and_the_metrics_are_those_of_the_labels():
    assert (SINGLE.link, SEVERAL.link) == (SOFTMAX, SIGMOID)
    assert SINGLE.metrics == SCALARS
    missing = set(SCALARS) - set(SEVERAL.metrics)
    assert missing == {"accuracy", "balanced_accuracy", "mcc", "kappa_quadratic", "rps"}
    unordered = Task(class_names=("a", "b", "c"), ordered=False)
    assert set(SCALARS) - set(unordered.metrics) == {"kappa_quadratic", "rps"}
    assert Task.of_checkpoint(unordered.for_checkpoint()) == unordered


def test_logits_are_right_by_the_largest_or_each_by_its_sign():
    logits = jnp.array([[1.0, 2.0, -1.0], [0.5, -0.5, -2.0]])
    one = SINGLE.targets(jnp.array([1, 2]))
    np.testing.assert_array_equal(SINGLE.correct(logits, one), [True, False])
    label = jnp.array([[1, 1, 1], [1, 0, 0]])
    expected = [[True, True, False], [True, True, True]]
    np.testing.assert_array_equal(SEVERAL.correct(logits, SEVERAL.targets(label)), expected)


def test_logits_are_right_by_the_share_of_a_mixed_label():
    logits = jnp.array([[1.0, 2.0, -1.0]])
    np.testing.assert_allclose(SINGLE.correct(logits, jnp.array([[0.7, 0.3, 0.0]])), [0.3])
    found = SEVERAL.correct(logits, jnp.array([[0.7, 0.3, 0.2]]))
    np.testing.assert_allclose(found, [[0.7, 0.3, 0.8]], rtol=1e-6)


def test_predicted_labels():
    probabilities = np.array([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(SINGLE.predicted(probabilities), [0, 2])  # the first on ties
    at_half = [[False, False, False], [False, False, True]]
    np.testing.assert_array_equal(SEVERAL.predicted(probabilities), at_half)
    lower = [[True, False, True], [False, False, True]]
    np.testing.assert_array_equal(SEVERAL.predicted(probabilities, (0.4, 0.5, 0.2)), lower)


def test_a_label_has_a_name():
    assert SINGLE.name(np.int32(1)) == "b"
    assert SEVERAL.name(np.array([1, 0, 1])) == "a|c"
    assert SEVERAL.name(np.zeros(3)) == ""


def test_images_of_each_class_are_counted():
    assert SINGLE.counts(np.array([0, 1, 1])) == (1, 2, 0)
    assert SEVERAL.counts(np.array([[1, 0, 0], [1, 1, 0]])) == (2, 1, 0)


@pytest.mark.parametrize("task", [SINGLE, SEVERAL])
def test_a_checkpoint_keeps_the_task(task):
    assert Task.of_checkpoint(task.for_checkpoint()) == task


@pytest.mark.parametrize(
    ("task", "labels"),
    [(SINGLE, [0, 3]), (SINGLE, [-1, 0]), (SEVERAL, [[0, 0, 2]] * 2), (SEVERAL, [[0, -2, 0]] * 2)],
)
def test_labels_out_of_range_are_refused(task, labels):
    with pytest.raises(InputError, match=r"labels run from -?\d to \d; they must be in 0\.\.[12]"):
        task.check(np.full((2, 3), 1 / 3), np.array(labels))


def test_labels_of_another_task_are_refused():
    for task, labels in ((SINGLE, np.zeros((2, 3))), (SEVERAL, np.zeros(2)), (SINGLE, np.zeros(3))):
        with pytest.raises(ValueError, match=r"do not belong to the 3 classes"):
            task.check(np.full((2, 3), 1 / 3), labels)
    with pytest.raises(ValueError, match="do not belong"):
        SINGLE.check(np.full((2, 4), 1 / 4), np.zeros(2))
    with pytest.raises(InputError, match="the split has no image"):
        SINGLE.check(np.zeros((0, 3)), np.zeros(0))
    SINGLE.check(np.full((2, 3), 1 / 3), np.array([0, 2]))


def test_what_is_unknown_of_a_label_is_no_target_and_no_member():
    label = np.array([[1, -1, 0], [-1, -1, 1]])
    unknown = label < 0
    np.testing.assert_array_equal(np.isnan(SEVERAL.targets(jnp.asarray(label))), unknown)
    np.testing.assert_array_equal(SEVERAL.known(label), ~unknown)
    np.testing.assert_array_equal(SEVERAL.multi_hot(label), np.where(unknown, 0, label))
    assert SEVERAL.counts(label) == (1, 0, 1)
    assert [SEVERAL.name(row) for row in label] == ["a|?b", "?a|?b|c"]
    SEVERAL.check(np.full((2, 3), 0.5), label)

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training.checkpoint import Checkpoints
from tests.helpers import replicated

META = {"class_names": ["cat", "dog"], "config": {"seed": 1, "data": {"root": "x"}}}


def state(step: int) -> TrainState:
    """A state whose arrays depend on its step."""
    weights = {"denoiser": {"w": jnp.full((2, 3), float(step))}}
    count = {"denoiser": jnp.int32(step)}
    return TrainState(jnp.int32(step), weights, {}, count, {}, jnp.int32(0), jnp.int32(0))


def save_all(
    workdir: Path, metrics: Mapping[int, Mapping[str, float] | None], metric: str = "accuracy"
) -> None:
    with Checkpoints(workdir, metric) as checkpoints:
        for step, values in metrics.items():
            checkpoints.save(step, state(step), META, values)


def steps_kept(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("accuracy", (0.5, 0.9, 0.7, 0.8), 2),
        ("nll", (0.4, 2.0, 1.0, 0.9), 1),
        ("accuracy", (0.5, 0.6, 0.7, 0.9), 4),
        ("accuracy", (0.9, 0.5, 0.9, 0.6), 3),
    ],
)
def test_the_best_and_the_two_latest_are_kept(tmp_path, metric, values, best):
    save_all(tmp_path, {i: {metric: v} for i, v in enumerate(values, 1)}, metric)
    with Checkpoints(tmp_path, metric, read_only=True) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (best, 4)
    assert steps_kept(tmp_path) == {str(best), "3", "4"}


def test_a_checkpoint_without_validation_is_never_the_best(tmp_path):
    save_all(tmp_path, {1: {"accuracy": 0.1}, 2: None})
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (1, 2)


def test_without_any_validation_the_newest_is_the_best(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        assert checkpoints.best_step == checkpoints.latest_step == 2


@pytest.mark.parametrize("metric", ["auroc_macro", "nll"])
def test_an_undefined_metric_loses_to_a_defined_one(tmp_path, metric):
    save_all(tmp_path, {1: {"accuracy": 0.9}, 2: {metric: 0.5}, 3: {"accuracy": 0.9}}, metric)
    with Checkpoints(tmp_path, metric) as checkpoints:
        assert checkpoints.best_step == 2


def test_a_state_comes_back_as_it_was_without_a_warning(tmp_path, caplog):
    save_all(tmp_path, {7: None})
    target = replicated(jax.eval_shape(lambda: state(0)))
    caplog.clear()
    with Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints:
        restored = checkpoints.restore(7, target)
        assert checkpoints.meta(7) == META
    assert max((record.levelno for record in caplog.records), default=0) < logging.WARNING
    jax.tree.map(np.testing.assert_array_equal, restored, state(7))
    for found, wanted in zip(*map(jax.tree.leaves, (restored, target)), strict=True):
        assert found.sharding == wanted.sharding


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("averaged", [{}, {"denoiser": {"w": jnp.full((2, 3), 0.5)}}])
def test_variables_come_without_the_rest_of_the_state(tmp_path, average, averaged):
    saved = state(7).replace(ema_params=averaged)
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        checkpoints.save(7, saved, META)
    target = replicated(jax.eval_shape(saved.variables))
    with Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints:
        found = checkpoints.variables(7, target, average)
    jax.tree.map(np.testing.assert_array_equal, found, saved.variables(average))
    placed = found["params"]["denoiser"]["w"].sharding
    assert placed == target["params"]["denoiser"]["w"].sharding


def test_variables_of_other_networks_are_refused(tmp_path):
    save_all(tmp_path, {7: None})
    target = replicated({"params": {"denoiser": {"w": jnp.zeros(5)}}})
    message = r"params.denoiser.w is float32\[2,3\], not float32\[5\]"
    with Checkpoints(tmp_path, "accuracy") as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.variables(7, target, average=False)


def test_a_folder_without_checkpoints_is_bad_input_and_stays_as_it_is(tmp_path):
    with pytest.raises(InputError, match=r"holds no checkpoint; train there first"):
        Checkpoints(tmp_path / "nowhere", "accuracy", read_only=True)
    (tmp_path / "checkpoints").mkdir()
    with (
        Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints,
        pytest.raises(InputError, match=r"holds no complete checkpoint; train there first"),
    ):
        checkpoints.best_step  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]

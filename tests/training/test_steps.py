"""What one training of a process has traced and compiled serves the next."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax.method.build import build
from diffmic_jax.method.task import Task
from diffmic_jax.training import parallel, steps
from diffmic_jax.training.state import Purpose, abstract_state, fresh_state, run_key
from tests import tiny

TASK = Task(class_names=tiny.CLASSES)


def method_of(**changes: object):
    config = tiny.make_config(Path("steps"), "classifier", **changes)
    return build(config, TASK, steps_per_epoch=3)


def test_the_same_configuration_gives_the_same_method():
    assert method_of() is method_of() is method_of(seed=3, guidance__checkpoint="elsewhere")
    assert method_of(guidance__learning_rate=0.5) is not method_of()
    assert build(tiny.make_config(Path("steps")), TASK) is not method_of()


def test_a_step_is_traced_once_for_its_columns_and_for_every_training(monkeypatch):
    calls = []

    def step(method, state, batch, key):
        calls.append(method.phase)
        return state.replace(step=state.step + 1), {"loss": batch.sum()}

    monkeypatch.setattr(steps, "train_step", step)
    method, mesh, key = (
        method_of(guidance__learning_rate=0.25),
        parallel.make_mesh(),
        run_key(0, Purpose.TRAIN),
    )
    (phase,) = {each for each in method.phases if each.name == "classifier"}
    batch = np.ones(8, np.float32)
    columns = jax.eval_shape(
        steps.step_of(method, phase, skip=False), abstract_state(method, mesh), batch, key
    )[1]
    assert list(columns) == ["loss"]
    for number in (1, 2):
        state = fresh_state(method, run_key(0, Purpose.INIT), mesh)
        state, scalars = steps.compiled_step(method, phase, mesh, skip=False)(state, batch, key)
        assert (int(state.step), float(scalars["loss"])) == (1, 8), number
    assert calls == [phase]
    skipping = steps.step_of(method, phase, skip=True)
    assert skipping is not steps.step_of(method, phase, skip=False)


@pytest.mark.parametrize("recipe", ["v1", "classifier"])
def test_a_training_traces_each_of_its_steps_once(recipe, tiny_data, tmp_path, monkeypatch):
    calls = []
    step = steps.train_step

    def counted(method, *rest):
        calls.append(method.phase.name)
        return step(method, *rest)

    monkeypatch.setattr(steps, "train_step", counted)
    # A rate of its own: no other test has made these steps.
    config = tiny.make_config(tiny_data, recipe, guidance__learning_rate=0.00125)
    tiny.train(config, tmp_path / "run")
    expected = {"v1": ["joint", "warmup"], "classifier": ["classifier", "warmup"]}
    assert sorted(calls) == expected[recipe]

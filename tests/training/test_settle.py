"""Statistics that are computed anew for the parameters that predict."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffmic_jax.data import loader
from diffmic_jax.method.state import of_network
from diffmic_jax.training.settle import settler
from tests import tiny

STATISTICS = {"guidance__statistics": "settled"}


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    config = tiny.make_config(tiny_data, "strong", **STATISTICS, guidance__pretrained="")
    return tiny.open_run(config, tmp_path_factory.mktemp("settle") / "run")


def moments(run, variables) -> list[np.ndarray]:
    """Mean over the batches of the first layer's means and unbiased variances of its input."""
    examples = run.dataset.examples["train"]
    batching = loader.Batching(batch_size=run.config.train.batch_size)
    count = len(examples) // batching.batch_size
    seen = {}

    def keep(next_call, args, kwargs, context):
        if type(context.module).__name__ == "BatchNorm":
            seen.setdefault("/".join(context.module.path), args[0])
        return next_call(*args, **kwargs)

    import flax.linen as nn

    found = {}
    for batch in loader.train_batches(examples, batching, seed=0, num_steps=count):
        seen.clear()
        with nn.intercept_methods(keep):
            run.method.guidance.apply(
                of_network(variables, "guidance"),
                run.method.preprocess.normalise(batch.image),
                True,
                mutable=["batch_stats"],
            )
        for name, x in seen.items():
            x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
            found.setdefault(name, []).append((x.mean(0), x.var(0, ddof=1)))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def test_settled_statistics_are_means_of_those_of_batches_of_plain_images(run):
    state, _ = run.initial_state()
    # As after a training, averaged parameters and their statistics are others than the latest.
    average = jax.tree.map(lambda each: each * 1.1, state.ema_params)
    state = state.replace(ema_params=average)
    settle = settler(run.config, run.method, run.mesh, run.dataset.examples["train"])
    assert settle is not None
    after = settle(state)
    tiny.assert_same(after.replace(ema_batch_stats=state.ema_batch_stats), state)
    expected = moments(run, state.variables(average=True))
    assert len(expected) > 3
    for name, (mean, var) in expected.items():
        own = after.ema_batch_stats["guidance"]
        for part in name.split("/"):
            own = own[part]
        np.testing.assert_allclose(own["mean"], mean, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(own["var"], var, atol=1e-5, rtol=1e-4)
    # Whatever the statistics were before.
    other = jax.tree.map(lambda each: each + 1, state.ema_batch_stats)
    again = settle(state.replace(ema_batch_stats=other))
    for one, two in zip(*map(jax.tree.leaves, (again, after)), strict=True):
        if jax.dtypes.issubdtype(one.dtype, np.floating):
            np.testing.assert_allclose(one, two, atol=1e-5, rtol=1e-4)


def test_a_training_is_validated_with_settled_statistics(run, tiny_data, tmp_path):
    tiny.train(run.config, tmp_path / "settled")
    state = tiny.latest_state(run.config, tmp_path / "settled")
    settle = settler(run.config, run.method, run.mesh, run.dataset.examples["train"])
    assert settle is not None
    own, again = state.ema_batch_stats, settle(state).ema_batch_stats
    for one, two in zip(*map(jax.tree.leaves, (own, again)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5, rtol=1e-4)
    running = run.config.changed({"guidance.statistics": "running"})
    tiny.train(running, tmp_path / "running")
    other = tiny.latest_state(running, tmp_path / "running")
    # The same training, but for the statistics that predict.
    tiny.assert_same(other.replace(ema_batch_stats=state.ema_batch_stats), state)
    with pytest.raises(AssertionError):
        tiny.assert_same(other, state)


def test_a_head_alone_keeps_the_statistics_of_its_trunk(run):
    for tune in ("head", "last_blocks"):
        config = run.config.changed({"guidance.tune": tune})
        method = tiny.open_run(config, run.workdir.parent / tune).method
        assert settler(config, method, run.mesh, run.dataset.examples["train"]) is None

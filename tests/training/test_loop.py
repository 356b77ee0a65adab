from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.cli import process as command
from diffmic_jax.data.cache import Examples
from diffmic_jax.errors import Interrupted, NonFiniteLossError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.types import Batch
from tests import tiny


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Batch], Batch]) -> None:
    """Let `act` see and change the batch of a step (the first is 1)."""
    real = TrainingRun.batches

    def batches(run: TrainingRun, start: int, examples: Examples) -> Generator[Batch, None, None]:
        for number, batch in enumerate(real(run, start, examples), start + 1):
            yield act(batch) if number == step else batch

    monkeypatch.setattr(TrainingRun, "batches", batches)


def press_ctrl_c(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGINT)
    return batch


def logged_steps(workdir: Path) -> list[int]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def steps_kept(workdir: Path) -> dict[str, int | None]:
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        return {"best": checkpoints.best_step, "latest": checkpoints.latest_step}


# Epochs have 3 steps, the first of them is the guidance's; checkpoints come at 3, 6 and 9.
@pytest.mark.parametrize("stops", [(2, 5), (tiny.WARMUP,)])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    tmp_path, tiny_data, trained, monkeypatch, stops
):
    config, workdir = tiny.make_config(tiny_data), tmp_path / "run"
    for step in stops:
        with monkeypatch.context() as patch:
            before_step(patch, step, press_ctrl_c)
            with pytest.raises(Interrupted, match=f"stopped after step {step} of {tiny.TOTAL}"):
                api.train(config, workdir)
        assert steps_kept(workdir)["latest"] == step
        assert max(logged_steps(workdir), default=0) <= step
    api.train(config, workdir)
    tiny.assert_same(tiny.latest_state(config, workdir), tiny.latest_state(config, trained))
    assert logged_steps(workdir) == logged_steps(trained) == [2, 4, 6, 8, 9]
    scores = Path("eval/test/metrics.json")
    assert (workdir / scores).read_bytes() == (trained / scores).read_bytes()


def test_a_finished_run_stays_as_it_is(tiny_data, trained):
    before = (trained / "metrics.csv").read_bytes()
    api.train(tiny.make_config(tiny_data), trained)
    assert (trained / "metrics.csv").read_bytes() == before
    assert steps_kept(trained)["latest"] == tiny.TOTAL


def test_max_steps_counts_the_warmup_and_can_be_raised_later(tmp_path, tiny_data, trained):
    first = tiny.make_config(tiny_data, train__max_steps=4)
    tiny.train(first, tmp_path)
    assert steps_kept(tmp_path)["latest"] == 4
    assert int(tiny.latest_state(first, tmp_path).opt_state["denoiser"][1][0].count) == 1
    everything = tiny.make_config(tiny_data)
    tiny.train(everything, tmp_path)
    tiny.assert_same(
        tiny.latest_state(everything, tmp_path), tiny.latest_state(everything, trained)
    )


def worse_and_worse(state: TrainState) -> dict[str, float]:
    """A validation whose first result is the best."""
    return {"accuracy": 1 / int(state.step)}


def test_the_best_on_validation_is_evaluated_and_the_latest_resumed(
    tmp_path, tiny_data, monkeypatch, capsys
):
    monkeypatch.setattr(api, "validator", lambda run: worse_and_worse)
    config = tiny.make_config(tiny_data, "classifier")
    api.train(config, tmp_path)
    assert steps_kept(tmp_path) == {"best": 6, "latest": 9}
    assert "test, checkpoint of step 6" in capsys.readouterr().out
    assert int(tiny.latest_state(config, tmp_path).step) == 9


def test_training_ends_when_validation_has_been_worse_for_long(tmp_path, tiny_data):
    config = tiny.make_config(tiny_data, "classifier", train__epochs=4, train__patience=2)
    for _ in range(2):  # the second time there is nothing to do
        tiny.open_run(config, tmp_path).train(worse_and_worse)
        assert steps_kept(tmp_path) == {"best": 6, "latest": 12}
    config = config.changed({"train.patience": 0})
    tiny.open_run(config, tmp_path).train(worse_and_worse)
    assert steps_kept(tmp_path) == {"best": 6, "latest": 15}


def test_without_a_validation_part_the_last_step_is_evaluated(tmp_path, capsys):
    for part, count in {"train": 8, "test": 3}.items():
        tiny.write_images(tmp_path / "data" / part, count)
    config = tiny.make_config(tmp_path / "data", "classifier", data__validation_fraction=0.0)
    api.train(config, tmp_path / "run")
    assert "test, checkpoint of step 9" in capsys.readouterr().out


def poison(batch: Batch) -> Batch:
    return batch._replace(image=np.full(batch.image.shape, np.nan, np.float32))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, tiny_data, monkeypatch, capsys):
    before_step(monkeypatch, 5, poison)
    config = tiny.make_config(tiny_data, "classifier", checkpoint__every_steps=2)
    status = command.run_command(lambda: api.train(config, tmp_path))
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert last.startswith("error: ")
    assert last.endswith("not finite at step 5; the last good checkpoint is kept")
    state = tiny.latest_state(config, tmp_path)
    assert int(state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_step_that_breaks_the_parameters_is_not_saved(tmp_path, tiny_data):
    config = tiny.make_config(tiny_data, checkpoint__every_steps=1, train__learning_rate=1e38)
    # The first joint step still has rate 0.
    with pytest.raises(NonFiniteLossError, match="not finite at step 5"):
        api.train(config, tmp_path)
    assert steps_kept(tmp_path)["latest"] == 4


def test_a_poisoned_step_is_skipped_counted_and_does_no_harm(tmp_path, tiny_data, monkeypatch):
    before_step(monkeypatch, 5, poison)
    config = tiny.make_config(tiny_data, train__on_nan="skip", train__log_every=1)
    tiny.train(config, tmp_path)
    state = tiny.latest_state(config, tmp_path)
    assert (int(state.step), int(state.skipped)) == (tiny.TOTAL, 1)
    # The denoiser learns from step 4 on.
    assert int(state.opt_state["denoiser"][1][0].count) == tiny.TOTAL - tiny.WARMUP - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["skipped"] for row in rows] == ["0"] * 4 + ["1"] * 5
    assert rows[4]["loss"] == ""


def test_the_denoiser_begins_with_the_trunk_that_the_guidance_has_learned(tmp_path, tiny_data):
    changes = {
        "guidance__frozen": True,
        "denoiser__pretrained": "guidance",
        "train__learning_rate": 0.0,
    }
    first = tiny.make_config(tiny_data, train__max_steps=tiny.WARMUP, **changes)
    api.train(first, tmp_path)
    before = tiny.latest_state(first, tmp_path).params
    whole = tiny.make_config(tiny_data, train__max_steps=tiny.WARMUP + 1, **changes)
    api.train(whole, tmp_path)
    after = tiny.latest_state(whole, tmp_path)
    for tree in (after.params, before):
        pairs = zip(
            *map(
                jax.tree.leaves, (tree["denoiser"]["encoder"], before["guidance"]["global_trunk"])
            ),
            strict=True,
        )
        same = all(np.array_equal(a, b) for a, b in pairs)
        assert same == (tree is after.params)
    jax.tree.map(np.testing.assert_array_equal, after.params["guidance"], before["guidance"])

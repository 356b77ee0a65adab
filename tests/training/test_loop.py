from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Container, Generator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from diffmic_jax import api
from diffmic_jax.cli import process as command
from diffmic_jax.data.cache import Examples
from diffmic_jax.errors import Interrupted, NonFiniteLossError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.loop import Loop
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.types import Batch
from tests import tiny


def before_step(
    monkeypatch: pytest.MonkeyPatch, steps: Container[int], act: Callable[[Batch], Batch]
) -> None:
    """Let `act` see and change the batches of some steps (the first is 1)."""
    real = TrainingRun.batches

    def batches(run: TrainingRun, start: int, examples: Examples) -> Generator[Batch, None, None]:
        for number, batch in enumerate(real(run, start, examples), start + 1):
            yield act(batch) if number in steps else batch

    monkeypatch.setattr(TrainingRun, "batches", batches)


def press_ctrl_c(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGINT)
    return batch


def logged(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged_steps(workdir: Path) -> list[int]:
    return [int(row["step"]) for row in logged(workdir)]


def steps_kept(workdir: Path) -> dict[str, int | None]:
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        return {"best": checkpoints.best_step, "latest": checkpoints.latest_step}


# Epochs have 3 steps, the first of them is the guidance's; checkpoints come at 3, 6 and 9.
@pytest.mark.whole
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    tmp_path, tiny_data, trained, monkeypatch
):
    config, workdir = tiny.make_config(tiny_data), tmp_path / "run"
    for step in (2, tiny.WARMUP, 5):
        with monkeypatch.context() as patch:
            before_step(patch, [step], press_ctrl_c)
            with pytest.raises(Interrupted, match=f"stopped after step {step} of {tiny.TOTAL}"):
                api.train(config, workdir)
        assert steps_kept(workdir)["latest"] == step
        assert max(logged_steps(workdir), default=0) <= step
    api.train(config, workdir)
    tiny.assert_same(tiny.latest_state(config, workdir), tiny.latest_state(config, trained))
    assert logged_steps(workdir) == logged_steps(trained) == [2, 4, 6, 8, 9]
    scores = Path("eval/test/metrics.json")
    assert (workdir / scores).read_bytes() == (trained / scores).read_bytes()


@pytest.mark.whole
def test_steps_in_a_row_are_those_steps(tmp_path, tiny_data, trained, monkeypatch):
    # Of 3 steps to a checkpoint, which ends a phase as well, two go together.
    several = tiny.make_config(tiny_data, train__steps_per_dispatch=2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    calls: list[int] = []
    real = Loop._steps

    def steps(loop: Loop, state: TrainState, batches: tuple[Batch, ...], step: int) -> Any:
        calls.append(len(batches))
        return real(loop, state, batches, step)

    monkeypatch.setattr(Loop, "_steps", steps)
    tiny.train(several, whole)
    assert calls == [2, 1] * 3
    left, right = (tiny.latest_state(several, each) for each in (whole, trained))
    for state in (left, right):
        # A normalisation follows, so that its gradient is nothing but rounding.
        del state.params["denoiser"]["embed"]["linear"]["bias"]
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, left.params, right.params)
    assert steps_kept(whole) == steps_kept(trained)
    assert logged_steps(whole) == logged_steps(trained)
    for ours, theirs in zip(logged(whole), logged(trained), strict=True):
        for name in ("guidance_loss", "loss", "skipped"):
            assert float(ours[name] or 0) == pytest.approx(float(theirs[name] or 0), rel=1e-3)

    # Asked for in the first of two steps, a stop comes after the second.
    with monkeypatch.context() as patch:
        before_step(patch, [4], press_ctrl_c)
        with pytest.raises(Interrupted, match=f"stopped after step 5 of {tiny.TOTAL}"):
            tiny.train(several, stopped)
    tiny.train(several, stopped)
    tiny.assert_same(*(tiny.latest_state(several, each) for each in (stopped, whole)))


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


def test_a_finished_run_goes_on_with_more_epochs_where_its_rate_is_constant(
    tmp_path, tiny_data, caplog
):
    changes = {"guidance__warmup_epochs": 0, "checkpoint__metric": "nll"}
    short, long = (
        tiny.make_config(tiny_data, "classifier", train__epochs=n, **changes) for n in (1, 2)
    )
    tiny.train(short, tmp_path / "run")
    caplog.set_level("INFO", "diffmic_jax")
    caplog.clear()  # of what the first run has said, if another test has set that level
    tiny.train(long, tmp_path / "run")
    tiny.train(long, tmp_path / "whole")
    ours, theirs = (tiny.latest_state(long, tmp_path / name) for name in ("run", "whole"))
    tiny.assert_same(ours, theirs)
    assert sum(line.startswith("about ") for line in caplog.messages) == 2


def mislabel(batch: Batch) -> Batch:
    return batch._replace(label=(batch.label + 1) % 3)


def validated(workdir: Path) -> dict[int, float]:
    """The accuracy on validation at every checkpoint, from the log."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]): float(row["val_accuracy"]) for row in rows if row["val_accuracy"]}


def test_the_best_on_validation_is_evaluated_and_training_ends_when_it_stays_worse(
    tmp_path, tiny_data, monkeypatch, capsys
):
    # What was learned in six steps is unlearned after them.
    before_step(monkeypatch, range(7, 99), mislabel)
    changes = {"train__epochs": 7, "guidance__learning_rate": 0.01, "seed": 1}
    config = tiny.make_config(tiny_data, "classifier", **changes)
    api.train(config, tmp_path / "whole")
    found = validated(tmp_path / "whole")
    assert list(found) == [6, 9, 12, 15, 18, 21, 24]
    best = max(found, key=lambda step: (found[step], step))
    assert best <= 15 and found[24] < found[best]
    assert steps_kept(tmp_path / "whole") == {"best": best, "latest": 24}
    assert f"test, checkpoint of step {best}\n" in capsys.readouterr().out
    assert int(tiny.latest_state(config, tmp_path / "whole").step) == 24

    workdir = tmp_path / "patient"
    patient = config.changed({"train.patience": 2})
    for _ in range(2):  # the second time there is nothing to do
        tiny.train(patient, workdir)
        assert steps_kept(workdir) == {"best": best, "latest": best + 6}
    assert validated(workdir) == {step: found[step] for step in found if step <= best + 6}
    tiny.train(config, workdir)
    assert validated(workdir) == found


def test_without_a_validation_part_the_last_step_is_evaluated(tmp_path, capsys):
    for part, count in {"train": 8, "test": 3}.items():
        tiny.write_images(tmp_path / "data" / part, count)
    config = tiny.make_config(tmp_path / "data", "classifier", data__validation_fraction=0.0)
    api.train(config, tmp_path / "run")
    assert "test, checkpoint of step 9" in capsys.readouterr().out


def poison(batch: Batch) -> Batch:
    return batch._replace(image=np.full(batch.image.shape, np.nan, np.float32))


@pytest.mark.parametrize(("at_once", "step"), [(1, 5), (2, 6)])  # the second of two
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path, tiny_data, monkeypatch, capsys, at_once, step
):
    before_step(monkeypatch, [step], poison)
    changes = {"checkpoint__every_steps": 2, "train__steps_per_dispatch": at_once}
    config = tiny.make_config(tiny_data, "classifier", **changes)
    status = command.run_command(lambda: api.train(config, tmp_path))
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    assert last.startswith("error: ")
    assert last.endswith(f"not finite at step {step}; the last good checkpoint, of step 4, is kept")
    state = tiny.latest_state(config, tmp_path)
    assert int(state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_where_no_checkpoint_is_none_is_said_to_be_kept(tmp_path, tiny_data, monkeypatch):
    before_step(monkeypatch, [1], poison)
    with pytest.raises(NonFiniteLossError, match="at step 1; there is no checkpoint yet"):
        api.train(tiny.make_config(tiny_data, "classifier"), tmp_path)


def test_a_step_that_breaks_the_parameters_is_not_saved(tmp_path, tiny_data):
    config = tiny.make_config(tiny_data, checkpoint__every_steps=1, train__learning_rate=1e38)
    # The first joint step still has rate 0.
    with pytest.raises(NonFiniteLossError, match="not finite at step 5"):
        api.train(config, tmp_path)
    assert steps_kept(tmp_path)["latest"] == 4


def test_a_poisoned_step_is_skipped_counted_and_does_no_harm(tmp_path, tiny_data, monkeypatch):
    before_step(monkeypatch, [5], poison)
    changes = {"train__on_nan": "skip", "train__log_every": 1}
    config = tiny.make_config(tiny_data, "classifier", **changes)
    tiny.train(config, tmp_path)
    state = tiny.latest_state(config, tmp_path)
    assert (int(state.step), int(state.skipped)) == (tiny.TOTAL, 1)
    counts = optax.tree.get_all_with_path(state.opt_state["guidance"], "count")
    assert {int(count) for _, count in counts} == {tiny.TOTAL - 1}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["skipped"] for row in rows] == ["0"] * 4 + ["1"] * 5
    assert rows[4]["guidance_loss"] == ""


def test_the_denoiser_begins_with_the_trunk_that_the_guidance_has_learned(tmp_path, tiny_data):
    changes = {
        "guidance__frozen": True,
        "denoiser__pretrained": "guidance",
        "train__learning_rate": 0.0,
    }
    first = tiny.make_config(tiny_data, train__max_steps=tiny.WARMUP, **changes)
    tiny.open_run(first, tmp_path).train(lambda state: {"accuracy": 0.0})
    before = tiny.latest_state(first, tmp_path).params
    whole = tiny.make_config(tiny_data, train__max_steps=tiny.WARMUP + 1, **changes)
    tiny.open_run(whole, tmp_path).train(lambda state: {"accuracy": 0.0})
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

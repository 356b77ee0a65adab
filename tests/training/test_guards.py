from __future__ import annotations

import logging
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import NonFiniteLossError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training.guards import MAX_SKIPS, FiniteCheck, StopRequest, Watchdog, skipping
from diffmic_jax.training.parallel import in_a_row


@pytest.fixture
def usual_sigint():
    """Python's own handler, which a shell's background job does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_asks_and_the_second_acts_as_usual(usual_sigint):
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual_sigint


def test_sigterm_asks_too():
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked


def test_afterwards_signals_do_what_they_did(usual_sigint):
    kinds = (signal.SIGINT, signal.SIGTERM)
    before, wakeup = [signal.getsignal(kind) for kind in kinds], signal.set_wakeup_fd(-1)
    with StopRequest().listening():
        during = [signal.getsignal(kind) for kind in kinds]
    assert [signal.getsignal(kind) for kind in kinds] == before
    assert signal.set_wakeup_fd(wakeup) == -1
    assert not set(during) & set(before)


def test_the_clock_asks_too():
    now = time.monotonic()
    assert StopRequest(now).asked
    assert not StopRequest(now + 1e6).asked


# Values that are not finite.


def state(value: float) -> TrainState:
    params, moments = {"w": jnp.full(3, value)}, {"m": jnp.float32(value)}
    return TrainState(jnp.int32(4), params, {}, moments, {}, jnp.int32(2), jnp.int32(9))


@pytest.mark.parametrize(
    ("loss", "parameter", "after"),
    [(1.0, 8.0, (8.0, 2)), (np.nan, 8.0, (7.0, 3)), (1.0, np.inf, (7.0, 3))],
)
def test_a_step_that_is_not_finite_changes_only_the_counts(loss, parameter, after):
    def step(before, batch, key):
        return state(parameter).replace(step=before.step + 1), {"loss": jnp.float32(loss)}

    got, scalars = jax.jit(skipping(step))(state(7.0), None, None)
    value, skipped = after
    assert (int(got.step), int(got.skipped)) == (5, skipped)
    np.testing.assert_array_equal(got.params["w"], np.full(3, value))
    assert float(got.opt_state["m"]) == value
    np.testing.assert_equal(float(scalars["loss"]), loss)


def test_of_steps_in_a_row_one_is_left_out():
    def step(before, batch, key):
        new = before.params["w"] + batch
        return before.replace(step=before.step + 1, params={"w": new}), {"loss": batch}

    run = jax.jit(in_a_row(skipping(step)))
    batches = tuple(jnp.float32(value) for value in (1, np.nan, 2))
    got, (scalars, skipped) = run(state(7.0), batches, None)
    np.testing.assert_array_equal(got.params["w"], np.full(3, 10.0))
    np.testing.assert_array_equal(scalars["loss"], [1, np.nan, 2])
    assert skipped.tolist() == [2, 3, 3]
    assert (int(got.step), int(got.skipped)) == (7, 3)


def test_the_policy_is_to_stop_or_to_leave_out():
    scalars = {"loss": jnp.float32(np.nan), "mse": jnp.float32(1)}
    with pytest.raises(NonFiniteLossError, match="loss not finite at step 7"):
        FiniteCheck(skip=False)(7, scalars)
    assert FiniteCheck(skip=True)(7, scalars) == {"mse": 1.0}


def test_many_skips_in_a_row_stop_the_run():
    check, bad, good = FiniteCheck(skip=True), {"loss": np.inf}, {"loss": 1.0}
    for values in ([bad] * MAX_SKIPS, [good], [bad] * MAX_SKIPS):
        for each in values:
            check(1, each)
    with pytest.raises(NonFiniteLossError):
        check(1, bad)


# Hangs.


def test_the_watchdog_names_the_process_and_what_it_does(capfd):
    logged = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            logged.set()

    messages: list[str] = []
    listener = Listener()
    logging.getLogger("diffmic_jax").addHandler(listener)
    watchdog = Watchdog(minutes=1e-4)
    watchdog.at("computes step 12 (joint)")  # before it watches: it may report at once
    with watchdog:
        assert logged.wait(timeout=60)
    assert messages[0].startswith("process 0 of 1 on ")
    assert "hangs? computes step 12 (joint), for " in messages[0]


def test_a_watchdog_of_no_minutes_starts_no_thread():
    before = threading.active_count()
    with Watchdog(minutes=0):
        assert threading.active_count() == before

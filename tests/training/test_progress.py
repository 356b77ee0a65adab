from __future__ import annotations

import os
import re
import signal
import time

import pytest

from diffmic_jax import recipes
from diffmic_jax.errors import InputError
from diffmic_jax.training import guards, progress
from diffmic_jax.training.guards import StopRequest
from diffmic_jax.training.progress import Progress, spoken
from diffmic_jax.training.workdir import check_same_run

MACHINE = r" on (\d+ CPU cores?|\d+ x \w+)"


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def make(warmup_steps: int = 10, metric: str = "accuracy") -> Progress:
    return Progress(steps_per_epoch=5, warmup_steps=warmup_steps, metric=metric)


def walk(made: Progress, clock: Clock, steps: range, seconds: float, total: int = 30) -> None:
    for step in steps:
        clock.now += seconds
        made.note(step, total)


def test_after_the_last_step_nothing_is_left_to_say(clock, caplog):
    with caplog.at_level("INFO", "diffmic_jax"):
        walk(make(), clock, range(1, 3), 4.0, total=2)
    assert caplog.messages == []


def test_two_steps_after_the_start_of_a_phase_the_log_says_how_long(clock, caplog):
    made = make()
    with caplog.at_level("INFO", "diffmic_jax"):
        walk(made, clock, range(1, 2), 500.0)  # compiles
        assert caplog.messages == []
        walk(made, clock, range(2, 11), 4.0)
        assert len(caplog.messages) == 1
        walk(made, clock, range(11, 12), 700.0)
        walk(made, clock, range(12, 15), 12.0)
    first, second = caplog.messages
    assert re.fullmatch(
        rf"about 32 s \(1\.6 epochs at 20 s\){MACHINE}, then 4 epochs of the last phase, which "
        r"take longer",
        first,
    )
    assert re.fullmatch(rf"about 3\.6 minutes \(3\.6 epochs at 60 s\){MACHINE}", second)


def test_steps_in_a_row_are_told_together(clock, caplog):
    made = make()
    with caplog.at_level("INFO", "diffmic_jax"):
        walk(made, clock, range(4, 9, 4), 16.0)
        walk(made, clock, range(14, 19, 4), 48.0)  # over the end of the first phase
    first, second = caplog.messages
    assert first.startswith("about 8.0 s (0.4 epochs at 20 s)")
    assert second.startswith("about 2.4 minutes (2.4 epochs at 60 s)")


def test_a_run_that_goes_on_counts_what_is_left(clock, caplog):
    made = make()
    with caplog.at_level("INFO", "diffmic_jax"):
        walk(made, clock, range(21, 23), 2.0)
    assert caplog.messages[0].startswith("about 16 s (1.6 epochs at 10 s) on ")


@pytest.mark.parametrize(("seconds", "told"), [(1.0, False), (3600.0, True)])
def test_days_come_with_a_way_to_a_result_today(clock, caplog, seconds, told):
    with caplog.at_level("INFO", "diffmic_jax"):
        walk(make(0), clock, range(1, 3), seconds)
    assert ("--minutes=30" in caplog.messages[0]) == told


def test_a_line_has_the_epoch_the_best_and_the_time_left(clock):
    made = make(warmup_steps=0)
    made.start(30)
    assert made.line() == "epoch 1/6, the first step is compiled"
    walk(made, clock, range(1, 11), 6.0)
    made.validated(5, 0.5)
    made.note(10, 30, {"accuracy": 0.7712})
    made.note(12, 30, {"accuracy": 0.6})
    made.note(13, 30, {"nll": 0.1})
    assert re.fullmatch(
        r"epoch 3/6, best accuracy 0\.771 at epoch 2, about [\d.]+ (s|minutes) left", made.line()
    )


def test_until_the_last_phase_begins_more_time_than_at_this_pace_is_left(clock):
    made = make(warmup_steps=10)
    walk(made, clock, range(1, 11), 4.0)
    assert made.line() == "epoch 3/6, more than 80 s left"
    walk(made, clock, range(11, 13), 12.0)
    assert made.line().endswith(", about 3.6 minutes left")


def test_of_errors_the_lowest_is_the_best():
    made = make(metric="nll")
    for step, value in ((5, 0.4), (10, 0.3), (15, 0.6)):
        made.note(step, 30, {"nll": value})
    assert "best nll 0.3 at epoch 2" in made.line()


def test_there_is_a_line_every_minute_however_long_a_step_takes(monkeypatch, caplog):
    monkeypatch.setattr(progress, "EVERY", 0.001)
    made = make()
    made.start(30)
    with caplog.at_level("INFO", "diffmic_jax"), made:
        while len(caplog.messages) < 2:
            time.sleep(0.001)
    assert set(caplog.messages) == {"epoch 1/6, the first step is compiled"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0.2 s"),
        (99, "99 s"),
        (101, "1.7 minutes"),
        (5999, "100 minutes"),
        (7200, "2.0 hours"),
        (200_000, "2.3 days"),
    ],
)
def test_durations_have_the_unit_that_one_would_say(seconds, text):
    assert spoken(seconds) == text


def test_a_signal_is_answered_before_its_handler_runs(caplog):
    answered = []

    def handler(number: int, frame: object) -> None:
        for _ in range(10_000):  # in the main thread, as a step that takes long
            if caplog.messages:
                break
            time.sleep(0.001)
        answered.append(number)

    usual = signal.signal(signal.SIGUSR1, handler)
    try:
        with caplog.at_level("WARNING", "diffmic_jax"), guards._answering():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert answered == [signal.SIGUSR1]
    (line,) = caplog.messages
    assert line.startswith("stopping: ends what it is at, saves, and stops within a step")
    assert signal.set_wakeup_fd(-1) == -1


def test_nobody_is_answered_who_has_not_asked(caplog):
    with caplog.at_level("INFO", "diffmic_jax"), StopRequest().listening():
        pass
    assert caplog.messages == []


def test_more_epochs_go_on_where_no_rate_follows_their_number():
    config = recipes.get("classifier").changed({"train.epochs": 3})
    stored = config.to_dict()
    check_same_run("w", stored, config.changed({"train.epochs": 4}))
    for changes in (
        {"train.epochs": 2},
        {"train.epochs": 4, "train.learning_rate": 0.5},
        {"train.epochs": 4, "guidance.rate": "cosine"},
    ):
        with pytest.raises(InputError, match="choose another --workdir or give the same values"):
            check_same_run("w", stored, config.changed(changes))


def test_more_epochs_go_on_where_the_denoiser_has_one_rate():
    flat = {"train.final_learning_rate": 1e-3, "train.warmup_fraction": 0.0, "train.epochs": 3}
    config = recipes.get("v1").changed(flat)
    check_same_run("w", config.to_dict(), config.changed({"train.epochs": 4}))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("v1", {}),
        ("v1", {"train.final_learning_rate": 1e-3}),
        ("v2", {}),
        ("strong", {}),
        ("plus", {}),
        ("classifier", {"guidance.class_weights": "deferred"}),
    ],
)
def test_where_something_follows_the_epochs_the_line_says_what_to_do(recipe, changes):
    config = recipes.get(recipe).changed({"train.epochs": 3} | changes)
    with pytest.raises(InputError) as error:
        check_same_run("w", config.to_dict(), config.changed({"train.epochs": 4}))
    assert str(error.value) == (
        "w belongs to a run with config.train.epochs=3, not 4; its rates or weights follow these "
        "epochs, so more are another run: choose another --workdir, perhaps with "
        "--config.guidance.checkpoint=w. To make a run longer later, give it all epochs at once "
        "and a config.train.max_steps, which can be raised"
    )

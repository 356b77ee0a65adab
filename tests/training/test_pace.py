"""The end of a training follows the clock."""

from __future__ import annotations

import json

import pytest

from diffmic_jax import api
from diffmic_jax.inference.load import load
from diffmic_jax.planning import budget
from diffmic_jax.planning.budget import Cost
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.pace import Limit, Pace
from diffmic_jax.training.state import abstract_state
from tests import tiny

COST = Cost(start=5, warmup=5, epoch=8, save=2, end=5)


class Machine:
    """A clock that training moves on, with steps of given length."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        return self.now


def train(
    pace: Pace,
    clock: Machine,
    end: int,
    slower: dict[int, float],
    at_once: int = 1,
    save: float = 2,
) -> list[int]:
    """All ends that a training of 10 steps a checkpoint has had; it stops at the last."""
    step, ends = 0, [end]
    while step < ends[-1]:
        clock.seconds = slower.get(step, clock.seconds)
        steps = min(at_once, ends[-1] - step)
        clock.now += steps * clock.seconds
        step += steps
        ends.append(pace.horizon(step, ends[-1]))
        if step % 10 == 0 or step == ends[-1]:
            clock.now += save
            pace.saved(save)
    assert step == ends[-1]
    return list(dict.fromkeys(ends))


def paced(seconds: float, clock: Machine, began: float = 0.0) -> Pace:
    return Pace(Limit(seconds=seconds, save=2), began=began, save_every=10, clock=clock)


def test_a_training_on_time_keeps_its_end():
    clock = Machine(1.0)
    assert train(paced(120, clock), clock, 100, {}) == [100]


def test_a_slower_machine_ends_in_time():
    clock = Machine(1.0)
    ends = train(paced(120, clock), clock, 100, {30: 2.0})
    assert ends[-1] < 75
    assert clock.now == pytest.approx(120, abs=5)


@pytest.mark.parametrize(("least", "steps"), [(0, 1), (30, 25)])
def test_a_slow_start_leaves_the_least_time(least, steps):
    clock = Machine(1.0)
    clock.now = 200.0  # later than it should have ended
    limit = Limit(seconds=120, save=2, least=least)
    ends = train(Pace(limit, began=0.0, save_every=10, clock=clock), clock, 100, {})
    assert ends[-1] == pytest.approx(steps, abs=3)
    assert clock.now - 200 <= least + 5


def test_steps_in_a_row_count_each():
    clock = Machine(1.0)
    assert train(paced(120, clock), clock, 100, {}, at_once=5) == [100]


def test_steps_that_are_compiled_first_are_not_timed():
    clock = Machine(1.0)
    pace = paced(120, clock)
    ends = [100]
    for step in range(1, 7):
        clock.now += 1
        if step == 3:
            pace.compiles()
            clock.now += 40
        ends.append(pace.horizon(step, ends[-1]))
    # 77 seconds are left for steps of one second, and some checkpoints.
    assert ends[:3] == [100] * 3 and all(60 < end < 75 for end in ends[3:])


@pytest.mark.parametrize("slow", [13.0, 60.0])
def test_one_slow_step_at_the_beginning_is_soon_forgotten(slow):
    clock = Machine(1.0)
    pace = paced(120 + slow, clock)
    ends = [100]
    for step in range(1, 13):
        clock.now += slow if step == 2 else 1
        ends.append(pace.horizon(step, ends[-1]))
    assert min(ends) < 20 and ends[-1] > 60
    ends = train(paced(120 + slow, other := Machine(1.0)), other, 100, {1: slow, 2: 1.0})
    assert ends[-1] > 90


def test_checkpoints_that_take_longer_than_expected_leave_fewer_steps():
    clock = Machine(1.0)
    ends = train(paced(300, clock), clock, 250, {}, save=20)
    assert ends[-1] == pytest.approx(100, abs=3)  # ten times ten steps and a checkpoint
    assert clock.now == pytest.approx(300, abs=5)


def test_near_the_end_it_is_what_is_left_that_becomes_shorter():
    clock = Machine(1.0)
    ends = train(paced(120, clock), clock, 100, {88: 1.3})
    assert 94 <= ends[-1] < 100
    assert clock.now == pytest.approx(120, abs=3)


def test_a_faster_machine_goes_on_longer_until_the_middle():
    clock = Machine(1.0)
    ends = train(paced(120, clock), clock, 100, {10: 0.5})
    assert ends[-1] > 150
    assert clock.now == pytest.approx(120, abs=6)
    late = Machine(1.0)
    assert train(paced(120, late), late, 100, {60: 0.5}) == [100]


def test_what_is_long_enough_does_not_become_longer():
    clock = Machine(1.0)
    pace = Pace(Limit(seconds=1e6, save=2, longest=80), began=0, save_every=10, clock=clock)
    assert train(pace, clock, 60, {}) == [60, 80]


def test_earlier_processes_have_taken_their_time():
    clock = Machine(1.0)
    train(paced(120, clock, began=-60), clock, 100, {})
    assert clock.now == pytest.approx(60, abs=5)


def test_no_time_left_ends_the_training_at_once():
    clock = Machine(1.0)
    assert train(paced(1, clock), clock, 100, {})[-1] <= 3


def test_a_run_that_takes_too_long_ends_early_and_so_does_its_rate(
    tmp_path, tiny_data, monkeypatch
):
    monkeypatch.setattr(budget, "measure", lambda run: COST)
    clock = Machine(0.0)

    def now() -> float:  # a step takes 4 seconds
        clock.now += 4
        return clock.now

    def slow(limit: Limit, *, began: float, save_every: int) -> Pace:
        del began
        return Pace(limit, began=0, save_every=save_every, clock=now)

    monkeypatch.setattr("diffmic_jax.training.run.Pace", slow)
    workdir = tmp_path / "run"
    api.train(tiny.make_config(tiny_data), workdir, minutes=1)
    planned = json.loads((workdir / budget.FILE).read_text())["epochs"]
    assert planned == 6
    model = load(workdir)
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        last = checkpoints.latest_step
        state = checkpoints.restore(last, abstract_state(model.method, model.mesh))
    assert tiny.WARMUP < last < tiny.WARMUP + planned * tiny.STEPS_PER_EPOCH
    assert int(state.horizon) == last
    # Run again, there is nothing left to train.
    again = api.train(tiny.make_config(tiny_data), workdir, minutes=1)
    assert again.metrics["n"] == 9
    assert load(workdir).step == model.step

"""Epochs that fit into given minutes."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest

from diffmic_jax import api
from diffmic_jax.errors import InputError
from diffmic_jax.planning import budget
from diffmic_jax.planning.budget import Cost
from diffmic_jax.training.pace import Limit
from diffmic_jax.training.run import TrainingRun
from tests import tiny

COST = Cost(start=10, warmup=20, epoch=5, save=1, end=15)


def test_epochs_fill_what_start_warmup_and_end_leave():
    assert COST.epochs(100) == 11
    assert COST.epochs(104) == 12  # the last one is begun, and ends in time
    assert COST.epochs(1) == 1  # one in any case
    on_features = dataclasses.replace(COST, features=1)
    assert (on_features.epochs(1), on_features.epochs(104)) == (10, 12)


def test_minutes_choose_the_epochs(tmp_path, tiny_data, monkeypatch, caplog):
    run = tiny.open_run(tiny.make_config(tiny_data), tmp_path)
    monkeypatch.setattr(budget, "measure", lambda run: COST)
    with caplog.at_level("INFO", "diffmic_jax"):
        found = budget.within(run, 2)
        assert found.epochs == 15
        assert found.limit == Limit(seconds=105, save=1)
        on_features = dataclasses.replace(found, cost=dataclasses.replace(COST, features=8))
        assert on_features.limit == Limit(seconds=105, save=1, least=75)
        assert "about 15 epochs of 5 s each in 2.0 minutes" in caplog.text
        assert budget.within(run, 2, most=4).epochs == 4
        assert "about 4 epochs of 5 s each in 1.1 minutes" in caplog.text
        assert budget.within(run, 0.7).epochs == 1
    assert "a whole epoch takes 0.8 minutes: not all images will be seen" in caplog.text
    assert not budget.within(run, 2, spare=1).extended
    extended = budget.within(run, 0.7, spare=1)
    assert (extended.extended, extended.minutes, extended.epochs) == (True, 1.7, 12)
    late = dataclasses.replace(run, began=time.monotonic() - 180)
    with pytest.raises(InputError, match="2 minutes went by while the data was read"):
        budget.within(late, 2)


def test_a_run_that_was_begun_keeps_its_epochs(tmp_path, tiny_data, monkeypatch):
    config = tiny.make_config(tiny_data, train__epochs=3)
    monkeypatch.setattr(TrainingRun, "_pace", lambda *args: None)
    # Two epochs, even if opening the data took half a minute.
    monkeypatch.setattr(budget, "measure", lambda run: dataclasses.replace(COST, epoch=75))
    first = api.train(config, tmp_path / "run", minutes=3.25)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["train"]["epochs"] == 2
    monkeypatch.setattr(budget, "measure", None)  # nothing is timed again
    again = api.train(config, tmp_path / "run", minutes=3.25)
    assert again.metrics == first.metrics
    with pytest.raises(InputError, match="belongs to a run with config.train.batch_size"):
        api.train(config.changed({"train.batch_size": 2}), tmp_path / "run", minutes=3.25)


@pytest.mark.parametrize(
    ("recipe", "changes"), [("v1", {}), ("classifier", {"guidance__tune": "head"})]
)
def test_every_part_of_a_run_takes_some_time(tmp_path, tiny_data, recipe, changes):
    run = tiny.open_run(tiny.make_config(tiny_data, recipe, **changes), tmp_path)
    cost = budget.measure(run)
    found = dataclasses.asdict(cost)
    assert (found.pop("features") > 0) == run.method.on_features
    assert min(found.values()) > 0
    assert not list(tmp_path.rglob("*"))


def test_the_features_of_a_head_take_time_once(tmp_path, tiny_data, monkeypatch):
    config = tiny.make_config(tiny_data, "classifier", guidance__warmup_epochs=0)
    monkeypatch.setattr(budget, "_prediction", lambda run: (1.0, 0.0))  # a second per image
    monkeypatch.setattr(budget, "_training", lambda run: (dict.fromkeys(run.method.phases, 0.0), 0))
    whole = budget.measure(tiny.open_run(config, tmp_path))
    assert (whole.start, whole.save) == (0, tiny.VALIDATION + budget.SAVING)
    head = config.changed({"guidance.tune": "head", "guidance.views": 3})
    once = budget.measure(tiny.open_run(head, tmp_path))
    views = 3 * tiny.TRAIN * budget.VIEW
    assert (once.start, once.save) == (pytest.approx(views + tiny.VALIDATION), budget.SAVING)
    assert once.end == whole.end
    # A prediction is then of four copies.
    once = budget.measure(tiny.open_run(head.changed({"sampling.flips": "both"}), tmp_path))
    assert once.start == pytest.approx(views / 4 + tiny.VALIDATION)


def test_processes_that_want_the_same_cores_make_a_thread_slower(monkeypatch):
    monkeypatch.setattr(budget.os, "cpu_count", lambda: 2)
    for wanting, factor in ((0.2, 1), (2.0, 1.5), (5.0, 3)):
        monkeypatch.setattr(budget.os, "getloadavg", lambda wanting=wanting: (wanting, 0, 0))
        assert budget.crowding() == factor
    monkeypatch.delattr(budget.os, "getloadavg")
    assert budget.crowding() == 1


@pytest.mark.parametrize(
    ("part", "what"),
    [("features", "the features of its images"), ("warmup", "the epochs of the guidance alone")],
)
def test_minutes_that_go_by_before_the_training_begins_are_refused(
    tmp_path, tiny_data, monkeypatch, part, what
):
    run = tiny.open_run(tiny.make_config(tiny_data), tmp_path)
    monkeypatch.setattr(budget, "measure", lambda run: dataclasses.replace(COST, **{part: 240}))
    with pytest.raises(budget.TooLongError, match=f"{what} take about 4.0 minutes here, of 2.0"):
        budget.within(run, 2)
    assert budget.within(run, 3).epochs  # somewhat late is better than not at all
    assert budget.within(run, 2, spare=1).epochs  # a fit's classifier has to answer


def test_epochs_that_end_with_other_weights_are_no_time_of_their_own(
    tmp_path, tiny_data, monkeypatch
):
    monkeypatch.setattr(budget, "_prediction", lambda run: (0.0, 0.0))
    monkeypatch.setattr(budget, "_training", lambda run: (dict.fromkeys(run.method.phases, 2.0), 0))
    config = tiny.make_config(tiny_data, "classifier", guidance__warmup_epochs=0)
    plain = budget.measure(tiny.open_run(config, tmp_path))
    deferred = config.changed({"guidance.class_weights": "deferred", "train.epochs": 50})
    found = budget.measure(tiny.open_run(deferred, tmp_path))
    assert (found.warmup, found.epoch) == (0, pytest.approx(plain.epoch))


def test_other_minutes_than_a_run_was_begun_with_are_told(tmp_path, tiny_data, monkeypatch, caplog):
    run = tiny.open_run(tiny.make_config(tiny_data), tmp_path)
    monkeypatch.setattr(budget, "measure", lambda run: COST)
    budget.keep(tmp_path, budget.within(run, 2))
    assert budget.within(run, 2).minutes == 2
    assert "was begun" not in caplog.text
    assert budget.within(run, 60).minutes == 2
    assert "was begun with 2 minutes, which hold, and not 60" in caplog.text

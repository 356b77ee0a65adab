"""Which runs of a study are run, and when one counts as done."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.errors import Interrupted
from diffmic_jax.study import definition
from diffmic_jax.study.runs import Runs
from tests.study.specs import noted, write_scores

pytestmark = pytest.mark.whole


def test_some_rows_are_run_in_the_studys_order(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr(api, "train", partial(noted, ran))
    monkeypatch.setattr(Runs, "_fingerprint", lambda self, row, seed: "")
    argv = ["study", spec, "--num_processes=1", f"--workdir={tmp_path}", "--rows=C1,basic"]
    assert cli.main(argv) == 0
    assert ran == ["basic-0", "C1-0"]


def test_a_study_that_is_stopped_stops_at_once(spec, tmp_path, monkeypatch, capsys):
    def stop(config, workdir, minutes):
        raise Interrupted("stopped after step 3 of 9 and saved")

    monkeypatch.setattr(api, "train", stop)
    assert cli.main(["study", spec, "--num_processes=1", f"--workdir={tmp_path}"]) == 75
    assert "run the same command again" in capsys.readouterr().err


def runs_of(spec: str, folder: Path, ran: list[str], monkeypatch, **changes: object) -> Runs:
    """Those of the rows basic and C1, which needs it, where a training only leaves its files."""

    def train(config, workdir, minutes):
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (workdir / "weights").write_text(f"{workdir.name} {config.train.max_steps}")
        write_scores(workdir / "eval/test", [[1]])
        return noted(ran, config, workdir, minutes)

    monkeypatch.setattr(api, "train", train)
    weights = folder / "runs/basic-0/weights"
    monkeypatch.setattr(Runs, "_fingerprint", lambda self, row, seed: weights.read_text())
    wanted = definition.load_study(spec).with_rows(["basic", "C1"])
    return Runs(wanted.with_changes({f"train.{k}": v for k, v in changes.items()}), folder)


def test_a_run_that_is_lengthened_and_stopped_is_not_done(spec, tmp_path, monkeypatch):
    """Though its earlier results are still there."""
    ran: list[str] = []
    short = runs_of(spec, tmp_path, ran, monkeypatch, max_steps=2)
    basic = short.study.rows[0]
    short.attempt(basic, 0)
    assert short.is_done(basic, 0)
    longer = runs_of(spec, tmp_path, ran, monkeypatch)
    assert not longer.is_done(basic, 0)

    def stop(config, workdir, minutes):
        raise Interrupted("stopped after step 3 of 9 and saved")

    monkeypatch.setattr(api, "train", stop)
    with pytest.raises(Interrupted):
        longer.attempt(basic, 0)
    assert (tmp_path / "runs/basic-0/eval/test/metrics.json").exists()
    for runs in (short, longer):
        assert not Runs(runs.study, tmp_path).is_done(basic, 0)


def test_a_row_waits_for_the_rows_that_it_needs(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    runs = runs_of(spec, tmp_path, ran, monkeypatch)
    basic, c1 = runs.study.rows
    runs.attempt(c1, 0)
    assert runs.failures == {("C1", 0): "row basic, which it needs, is not done"}
    for row in (basic, c1):
        runs.attempt(row, 0)
    assert (ran, runs.failures) == (["basic-0", "C1-0"], {})


def test_a_row_does_not_go_on_if_the_run_it_started_from_has_changed(spec, tmp_path, monkeypatch):
    ran: list[str] = []
    runs = runs_of(spec, tmp_path, ran, monkeypatch, max_steps=2)
    for row in runs.study.rows:
        runs.attempt(row, 0)
    longer = runs_of(spec, tmp_path, ran, monkeypatch)
    for row in longer.study.rows:
        assert not longer.is_done(row, 0)
        longer.attempt(row, 0)
    reason = longer.failures.pop(("C1", 0))
    assert reason == (
        f"{tmp_path}/runs/C1-0 started from another run of basic; remove it to train it again"
    )
    shutil.rmtree(tmp_path / "runs/C1-0")
    longer.attempt(longer.study.rows[1], 0)
    assert longer.failures == {}
    assert ran == ["basic-0", "C1-0", "basic-0", "C1-0"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_only_a_cpus_runs_have_a_cost_in_cpu_seconds(spec, tmp_path, monkeypatch, device):
    """What a GPU computes takes none of the process's time."""
    runs = runs_of(spec, tmp_path, [], monkeypatch)
    monkeypatch.setattr("jax.default_backend", lambda: device)
    basic = runs.study.rows[0]
    runs.attempt(basic, 0)
    assert runs.is_done(basic, 0)
    done = runs.outcomes()[0]
    assert done.seconds > 0
    assert (done.train_cpu is not None) == (device == "cpu")


def test_what_a_killed_training_took_is_not_known(spec, tmp_path, monkeypatch):
    runs = runs_of(spec, tmp_path, [], monkeypatch)
    basic = runs.study.rows[0]
    runs.attempt(basic, 0)
    once = runs.outcomes()[0]
    assert once.seconds and once.train_cpu
    # As a kill leaves it: begun, and never ended.
    record = json.loads((tmp_path / "runs.json").read_text())
    assert "open" not in record["basic-0"]
    del record["basic-0"]["done"]
    (tmp_path / "runs.json").write_text(json.dumps(record | {"basic-0": {"open": True}}))
    again = runs_of(spec, tmp_path, [], monkeypatch)
    again.attempt(basic, 0)
    found = again.outcomes()[0]
    assert (found.status, found.seconds, found.train_cpu) == ("done", None, None)
    # Trained anew, it costs what that takes.
    shutil.rmtree(tmp_path / "runs/basic-0")
    anew = runs_of(spec, tmp_path, [], monkeypatch)
    anew.attempt(basic, 0)
    assert anew.outcomes()[0].seconds > 0

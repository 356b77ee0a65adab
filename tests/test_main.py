"""main.py as a process, and the quickstart; what they do is tested in tests/cli."""

from __future__ import annotations

import json
import signal

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.cli import train
from tests import tiny
from tests.processes import start, write_config

pytestmark = pytest.mark.whole


def test_a_bad_command_line_is_one_line_and_a_status(tmp_path):
    argv = ["--config=configs/quickstart.py", "--config.train.batchsize=3"]
    process = start(*argv, f"--workdir={tmp_path / 'run'}")
    out, error = process.communicate()
    assert process.returncode == 2, error
    assert error.startswith("error: config.train.batchsize: there is no such field; did you mean ")
    assert (error.count("\n"), out) == (1, "")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, tiny_data, monkeypatch, capsys):
    config = write_config(tmp_path / "mine.py", tiny_data)
    argv = (f"--config={config}", "--config.train.log_every=1")
    process = start(*argv, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "warmup step 1:" in line:
            process.send_signal(signal.SIGINT)
            break
    _, error = process.communicate()
    assert process.returncode == 75, error
    assert "stopping: ends what it is at, saves, and stops within a step" in error
    assert "run the same command again to go on" in error.splitlines()[-1]
    assert "Traceback" not in error
    monkeypatch.chdir(tmp_path)
    assert train.main(["main.py", *argv, "--num_processes=1"]) == 0
    assert "guidance alone" in capsys.readouterr().out
    scores = json.loads((tmp_path / "runs/mine/eval/test/metrics.json").read_text())
    assert scores["n"] == tiny.TEST


def test_diffmic_train_finds_the_quickstart_from_any_folder(tmp_path, monkeypatch):
    small = tiny.TINY | {
        "guidance.warmup_epochs": 0,
        "train.batch_size": 32,
        "train.max_steps": 2,
        "eval.batch_size": 64,
        "eval.bootstrap": 0,
    }
    fields = [f"--config.{name}={value}" for name, value in small.items()]
    monkeypatch.chdir(tmp_path)
    argv = ["--config=quickstart:classifier", *fields, "--num_processes=1", "--workdir=w"]
    assert cli.main(["train", *argv]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    scores = json.loads((tmp_path / "w/eval/test/metrics.json").read_text())
    assert (scores["n"], len(scores["per_class"])) == (420, 4)

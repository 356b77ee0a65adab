from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import environment, start, write_config


@pytest.fixture
def config(tmp_path, tiny_data) -> Path:
    """A config file of the user's own."""
    return write_config(tmp_path / "mine.py", tiny_data)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config is missing; try --config=quickstart"),
        (["--config=configs/nowhere.py"], "--config=configs/nowhere.py: no such file"),
        (
            ["--config=pyproject.toml"],
            "--config=pyproject.toml: cannot be used (SyntaxError: cannot assign to expression",
        ),
        (
            ["--config=configs/quickstart.py", "--config.train.batchsize=3"],
            "config.train.batchsize: there is no such field; did you mean train.batch_size?",
        ),
        (
            ["--config=configs/quickstart.py", "--config.train.batch_size=many"],
            "command line: flag --config.train.batch_size=many: invalid literal",
        ),
        (["--config=configs/busi.py", "--mode=dance"], "command line: flag --mode=dance"),
        (["--config=configs/busi.py", "--colour=red"], "command line: Unknown command line flag"),
        (["--config=configs/busi.py", "red"], "'red' is not a flag; flags start with --"),
        (["--config=configs/busi.py:v9"], "recipe 'v9' is unknown; choose one of classifier, gmi"),
        (
            ["--config=configs/busi.py", "--config.sampling.num_steps=0"],
            "config.sampling.num_steps=0 does not go with config.denoiser.encoder='resnet18'",
        ),
        (
            ["--config=configs/busi.py", "--config.data.root=nowhere"],
            "config.data.root='nowhere' is not there; download Dataset_BUSI.zip from https://",
        ),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line(tmp_path, argv, message):
    process = start(*argv, f"--workdir={tmp_path / 'run'}")
    out, error = process.communicate()
    assert process.returncode == 2, error
    assert error.startswith(f"error: {message}")
    assert (error.count("\n"), out) == (1, "")
    assert not (tmp_path / "run").exists()


def test_help_shows_the_flags():
    process = start("--help")
    out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert "python main.py --config=configs/quickstart.py" in out
    assert "--workdir" in out


@pytest.mark.parametrize(("recipe", "workdir"), [("", "mine"), (":v1_public", "mine-v1_public")])
def test_the_default_workdir_is_named_after_config_and_recipe(tmp_path, config, recipe, workdir):
    process = start(f"--config={config}{recipe}", "--mode=evaluate", cwd=tmp_path)
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.startswith(f"error: runs/{workdir} holds no checkpoint")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--coordinator=localhost:1"], "--coordinator=HOST:PORT, --num_processes=N and --proc"),
        (["--num_processes=2", "--process_id=0"], "--coordinator=HOST:PORT, --num_processes=N"),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=0..N-1 belong together",
        ),
    ],
)
def test_flags_of_several_processes_belong_together(tmp_path, config, argv, message):
    process = start(f"--config={config}", *argv, cwd=tmp_path)
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.startswith(f"error: {message}")


def test_a_time_limit_saves_and_asks_for_a_restart(tmp_path, config):
    process = start(f"--config={config}", "--config.train.max_minutes=0.0001", cwd=tmp_path)
    _, error = process.communicate()
    assert process.returncode == 75, error
    assert error.splitlines()[-1] == (
        "stopped after step 1 of 9 and saved; run the same command again to go on"
    )
    assert (tmp_path / "runs/mine/checkpoints/1").is_dir()


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, config):
    argv = (f"--config={config}", "--config.train.log_every=1")
    process = start(*argv, cwd=tmp_path)
    workdir = tmp_path / "runs" / "mine"
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
    process = start(*argv, cwd=tmp_path)
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert "guidance alone" in out
    scores = json.loads((workdir / "eval/test/metrics.json").read_text())
    assert scores["n"] == tiny.TEST


def test_diffmic_train_finds_the_quickstart_from_any_folder(tmp_path):
    small = {
        "data.image_size": 32,
        "model.width": 8,
        "guidance.region_size": 16,
        "guidance.warmup_epochs": 0,
        "denoiser.feature_dim": 16,
        "sampling.num_steps": 2,
        "sampling.num_samples": 1,
        "train.max_steps": 2,
        "eval.bootstrap": 0,
    }
    fields = [f"--config.{name}={value}" for name, value in small.items()]
    command = [sys.executable, "-m", "diffmic_jax", "train", "--config=quickstart", *fields]
    process = subprocess.run(
        [*command, "--workdir=w"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    scores = json.loads((tmp_path / "w/eval/test/metrics.json").read_text())
    assert (scores["n"], len(scores["per_class"])) == (420, 4)

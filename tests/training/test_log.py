from __future__ import annotations

import csv
import errno
import re
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import SessionLog

from diffmic_jax.errors import StorageError
from diffmic_jax.training.log import TrainingLog
from tests.training.test_writer import read_events, read_values

METRICS = {"accuracy": 0.5, "f1_macro": 0.25, "nll": 1.5, "ece": 0.1}


def open_log(workdir: Path | None, every_steps: int = 2, start_step: int = 0) -> TrainingLog:
    return TrainingLog(
        workdir,
        ["a", "b"],
        batch_size=8,
        every_steps=every_steps,
        num_steps=9,
        start_step=start_step,
    )


def rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_means_since_the_last_one(tmp_path):
    with open_log(tmp_path) as log:
        for step, value in enumerate([1.0, 2.0, 5.0, 7.0, 100.0], 1):
            log.add(step, "joint", {"a": value}, seconds=0.5)
    assert [row["step"] for row in rows(tmp_path)] == ["2", "4"]
    assert [row["a"] for row in rows(tmp_path)] == ["1.5", "6"]
    assert [row["images_per_second"] for row in rows(tmp_path)] == ["16", "16"]


def test_a_mean_is_over_the_steps_that_had_the_scalar(tmp_path):
    with open_log(tmp_path, every_steps=4) as log:
        for step in (1, 2, 3):
            log.add(step, "warmup", {"a": 1.0}, 0.1)
        log.add(4, "joint", {"a": 5.0, "b": 3.0}, 0.1)
    (row,) = rows(tmp_path)
    assert (row["phase"], row["a"], row["b"]) == ("joint", "2", "3")


@pytest.mark.parametrize("step", [3, 4])
def test_validation_shares_the_row_of_its_step(tmp_path, step):
    with open_log(tmp_path) as log:
        log.add(step, "joint", {"a": 1.0}, 0.1, METRICS)
    (row,) = rows(tmp_path)
    assert (row["step"], row["a"], row["val_accuracy"]) == (str(step), "1", "0.5")
    assert (row["val_f1_macro"], row["val_nll"]) == ("0.25", "1.5")


def test_a_metric_that_is_undefined_leaves_its_cell_empty(tmp_path):
    with open_log(tmp_path) as log:
        log.add(2, "joint", {"a": 1.0}, 0.1, {"accuracy": 0.5})
    assert rows(tmp_path)[0]["val_nll"] == ""


def test_resuming_drops_the_rows_after_the_restored_step(tmp_path):
    with open_log(tmp_path, every_steps=1) as log:
        for step in range(1, 6):
            log.add(step, "joint", {"a": step}, 0.1)
    with open_log(tmp_path, every_steps=1, start_step=3) as log:
        log.add(4, "joint", {"a": 40}, 0.1)
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
        ("4", "40"),
    ]


def test_a_line_that_a_full_disk_tore_is_dropped(tmp_path):
    with open_log(tmp_path, every_steps=1) as log:
        for step in (1, 2):
            log.add(step, "joint", {"a": step}, 0.1)
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text()[:-4])
    with open_log(tmp_path, every_steps=1, start_step=2):
        pass
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_links_that_lie_in_the_workdir_are_not_written_through(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in ("metrics.csv", "metrics.tmp", "metrics.part"):
        (workdir / name).symlink_to(other)
    with open_log(workdir) as log:
        log.add(2, "joint", {"a": 1.0}, 0.1)
    assert other.read_text() == "mine"
    assert [row["step"] for row in rows(workdir)] == ["2"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with open_log(tmp_path) as log:
        (tmp_path / "metrics.csv").unlink()
        (tmp_path / "metrics.csv").mkdir()
        with pytest.raises(StorageError, match=r"metrics.csv: cannot be written \(Is a directory"):
            log.add(2, "joint", {"a": 1.0}, 0.1)


def test_a_line_on_the_terminal_has_every_value_and_the_time_left(tmp_path, caplog):
    with caplog.at_level("INFO", "diffmic_jax"), open_log(tmp_path) as log:
        log.add(2, "joint", {"a": 1.0, "b": 2.0}, 0.5, METRICS, skipped=3)
    (line,) = caplog.messages
    assert line.startswith("joint step 2: a 1, b 2, images_per_second 16, val_accuracy 0.5, ")
    assert re.search(r", 3 skipped, ETA \d+:\d\d:\d\d$", line)


def test_tensorboard_gets_the_scalars_and_pictures_too(tmp_path):
    with open_log(tmp_path) as log:
        log.add(2, "joint", {"a": 1.0}, 0.1)
        log.show("regions", np.zeros((4, 4, 3), np.uint8), 2)
    values = read_values(tmp_path / "tensorboard")
    assert {"a", "images_per_second", "regions"} <= values.keys()
    assert (values["a"][0], values["a"][1].simple_value) == (2, 1.0)


def test_tensorboard_hides_events_after_the_restored_step(tmp_path):
    with open_log(tmp_path, start_step=3):
        pass
    (start,) = (e for e in read_events(tmp_path / "tensorboard") if e.HasField("session_log"))
    assert (start.step, start.session_log.status) == (4, SessionLog.START)


def test_a_full_disk_under_the_events_is_reported(tmp_path, monkeypatch):
    def full(self, event: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_log(tmp_path) as log, monkeypatch.context() as patch:
        patch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
        with pytest.raises(StorageError, match="No space left on device"):
            log.show("regions", np.zeros((4, 4, 3), np.uint8), 2)


def test_the_size_of_each_network_is_logged(tmp_path, caplog):
    params = {"guidance": {"w": np.zeros((40, 30))}, "denoiser": {"b": np.zeros(5)}}
    with caplog.at_level("INFO", "diffmic_jax"), open_log(tmp_path) as log:
        log.networks(params, 0)
    assert caplog.messages == ["parameters: guidance 1,200, denoiser 5"]
    _, value = read_values(tmp_path / "tensorboard")["parameters/guidance/text_summary"]
    assert b"(40, 30)" in value.tensor.string_val[0]


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_log(None) as log:
        log.networks({"guidance": {}}, 0)
        log.add(2, "joint", {"a": 1.0}, 0.1, METRICS)
    assert not list(tmp_path.iterdir())

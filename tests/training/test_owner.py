from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffmic_jax import api
from diffmic_jax.errors import InputError
from diffmic_jax.training import owner
from diffmic_jax.training.owner import check_free, check_owned, owned
from tests import tiny
from tests.processes import PROJECT
from tests.refusal import refused

HOLDS = """
import sys, time
from pathlib import Path
from diffmic_jax.training.owner import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which owns tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.communicate()


def refusal(process: object, host: object) -> str:
    return rf"is in use by process {process} on {host}; wait for its end, stop it, or choose "


def test_a_second_training_is_refused_until_the_first_has_died(tmp_path, tiny_data, capsys, other):
    config = tiny.make_config(tiny_data, "classifier", train__max_steps=1)
    line = refused(config, tmp_path, capsys)
    assert line.startswith(f"{tmp_path} is in use by process {other.pid} on {os.uname().nodename};")
    assert {path.name for path in tmp_path.iterdir()} == {owner.FILE, owner.LOCK}
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / owner.FILE).exists()
    with owned(tmp_path):
        assert json.loads((tmp_path / owner.FILE).read_text())["process"] == os.getpid()
    assert not (tmp_path / owner.FILE).exists()


def test_where_the_systems_lock_holds_nobody_the_living_owner_is_seen(tmp_path, monkeypatch, other):
    class Liar(contextlib.nullcontext):
        def __init__(self, path: Path, timeout: float) -> None:
            del path, timeout

        def acquire(self) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr(owner, "FileLock", Liar)
    with pytest.raises(InputError, match=refusal(other.pid, os.uname().nodename)), owned(tmp_path):
        pass
    other.kill()
    other.wait()
    with owned(tmp_path):
        pass


def on_another_machine(folder: Path, beat: int) -> None:
    facts = {"host": "far", "machine": "m", "process": 7, "started": "1", "token": "t"}
    (folder / "new").write_text(json.dumps(facts | {"beat": beat}))
    os.replace(folder / "new", folder / owner.FILE)


@pytest.fixture
def beating(tmp_path) -> Iterator[Callable[[], None]]:
    """Starts an owner on another machine."""
    ended, threads = threading.Event(), []

    def beat() -> None:
        for number in range(10**6):
            if ended.wait(0.02):
                return
            on_another_machine(tmp_path, number)

    def start() -> None:
        threads.append(threading.Thread(target=beat))
        threads[0].start()

    yield start
    ended.set()
    for each in threads:
        each.join()


def test_an_owner_on_another_machine_is_watched_for_signs_of_life(tmp_path, monkeypatch, beating):
    monkeypatch.setattr(owner, "BEAT", 0.1)
    on_another_machine(tmp_path, -1)
    with owned(tmp_path):  # it gave none
        pass
    on_another_machine(tmp_path, -1)
    beating()
    with pytest.raises(InputError, match=refusal(7, "far")), owned(tmp_path):
        pass


def test_an_owner_that_lost_its_folder_stops_before_it_saves(tmp_path, tiny_data, monkeypatch):
    real = owner.check_owned

    def taken_over(folder: Path) -> None:
        on_another_machine(tmp_path, 1)
        real(folder)

    monkeypatch.setattr("diffmic_jax.training.loop.check_owned", taken_over)
    config = tiny.make_config(tiny_data, "classifier", train__max_steps=1)
    with pytest.raises(InputError, match="has been taken over by process 7 on far, since this"):
        api.train(config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())
    # What the other one wrote stays.
    assert json.loads((tmp_path / owner.FILE).read_text())["process"] == 7


def test_signs_of_life_come_by_themselves_and_end_where_another_owner_is(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "BEAT", 0.01)
    path = tmp_path / owner.FILE
    with owned(tmp_path):
        first = json.loads(path.read_text())["beat"]
        end = time.monotonic() + 30
        while json.loads(path.read_text())["beat"] == first:
            assert time.monotonic() < end
            time.sleep(0.01)
        check_owned(tmp_path)
        on_another_machine(tmp_path, 1)
        with pytest.raises(InputError, match="taken over"):
            check_owned(tmp_path)
    assert json.loads(path.read_text())["host"] == "far"


def test_a_folder_that_nobody_owns_is_free_and_not_made(tmp_path):
    check_free(tmp_path / "new")
    check_owned(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    run = owned(tmp_path / "file/run")
    with pytest.raises(InputError, match=r"file/run cannot be locked \(Not a directory\)"), run:
        pass

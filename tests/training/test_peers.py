"""Processes of a run that die, stop or lose their network: the others name them and end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from diffmic_jax.errors import RESTART, InputError
from diffmic_jax.training import peers
from tests.processes import PROJECT, environment, finish, start, start_together, write_config


class Store:
    """The coordinator's, as far as it is used; it can be silent."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.answers = True

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self._ask()
        self.values[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        self._ask()
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

    def _ask(self) -> None:
        if not self.answers:
            raise ValueError("UNAVAILABLE")

    def speak(self, process: int, sign: str) -> None:
        self.values[f"{peers._FOLDER}{process}"] = f"{sign} host{process}"


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def store(monkeypatch) -> Store:
    """Of a run of three processes, of which this is number 1; time passes quickly."""
    found = Store()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(peers.distributed.global_state, "client", found)
    monkeypatch.setattr(peers, "BEAT", 0.02)
    monkeypatch.setattr(peers, "_before_abort", lambda act: None)
    return found


def lost(
    store: Store, monkeypatch, act: Callable[[int], None], limit: float = 0.3, most: float = 1.5
) -> list[int]:
    """The processes that are found missing while `act` is called every few milliseconds."""
    found: list[int] = []

    def give_up(self: peers.Peers, missing: int) -> None:
        found.append(missing)
        self.stop()

    monkeypatch.setattr(peers.Peers, "_give_up", give_up)
    with peers.watched(limit):
        end = time.monotonic() + most
        count = 0
        while time.monotonic() < end and not found:
            act(count)
            count += 1
            time.sleep(0.005)
        store.speak(0, peers.ENDED)
        store.speak(2, peers.ENDED)
    return found


def test_processes_that_give_signs_of_life_are_not_missed(store, monkeypatch):
    def both(count: int) -> None:
        store.speak(0, str(count))
        store.speak(2, str(count))

    assert lost(store, monkeypatch, both) == []


def test_a_process_that_gives_no_sign_any_more_is_missed(store, monkeypatch):
    def one(count: int) -> None:
        store.speak(0, str(count))
        store.speak(2, "7")

    assert lost(store, monkeypatch, one)[0] == 2


def test_the_missing_process_is_named_with_its_host(store, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(peers, "_end", said.append)
    watching = peers.Peers(0.3)
    store.speak(2, "7")
    watching._listen()
    for missing in (2, 0):  # the second has never spoken
        watching._give_up(missing)
    assert [line.partition(" is missing")[0] for line in said] == [
        "process 2 of 3 on host2",
        "process 0 of 3 on ?",
    ]


def test_a_process_that_has_ended_is_not_missed(store, monkeypatch):
    def one(count: int) -> None:
        store.speak(0, str(count))
        store.speak(2, peers.ENDED)

    assert lost(store, monkeypatch, one) == []
    assert store.values[f"{peers._FOLDER}1"].startswith(f"{peers.ENDED} ")


def test_a_process_that_fails_alone_is_missed_and_one_that_has_ended_waits_for_the_others(
    store, monkeypatch
):
    with pytest.raises(InputError), peers.watched(600):
        raise InputError("a bad image")
    assert not store.values.get(f"{peers._FOLDER}1", "").startswith(peers.ENDED)
    left: list[str] = []

    def end_too(self: peers.Peers) -> None:
        left.append(store.values[f"{peers._FOLDER}1"])
        store.speak(0, peers.ENDED)
        store.speak(2, peers.ENDED)
        real(self)

    real = peers.Peers._listen
    with peers.watched(600):
        monkeypatch.setattr(peers.Peers, "_listen", end_too)
    assert any(sign.startswith(f"{peers.ENDED} ") for sign in left)


def test_a_coordinator_that_does_not_answer_is_process_0(store, monkeypatch):
    def silent(count: int) -> None:
        store.answers = False

    assert lost(store, monkeypatch, silent)[0] == 0


def test_after_an_error_less_silence_is_enough(store, monkeypatch):
    monkeypatch.setattr(peers.Peers, "_give_up", lambda self, missing: self._over.set())
    began = time.monotonic()
    with pytest.raises(ValueError, match="Gloo"), peers.watched(600), peers.alarming():
        raise ValueError("Gloo AllGather failed")
    assert time.monotonic() - began < 60
    with pytest.raises(InputError), peers.watched(600):
        raise InputError("a bad image")  # which nobody's loss explains


@pytest.mark.parametrize(
    ("own", "count", "who"),
    [
        (0, 2, "process 1 of 2 has not come"),
        (0, 3, "not all of the other processes (1, 2) of 3 have come"),
        (1, 3, "process 0 of 3 cannot be reached at 127.0.0.1:1"),  # where nobody listens
    ],
)
def test_who_did_not_come_is_named(monkeypatch, own, count, who):
    state = {"process_id": own, "num_processes": count, "coordinator_address": "127.0.0.1:1"}
    for name, value in state.items():
        monkeypatch.setattr(peers.distributed.global_state, name, value)
    assert peers._who_did_not_come(9) == f"{who} within 9 s, while process {own} starts"


def test_a_run_of_one_process_watches_nobody():
    with peers.watched(0.0):
        assert not peers._WATCHING


def test_an_abort_of_a_library_comes_after_the_last_look():
    code = (
        "import ctypes, os, threading, time\n"
        "from diffmic_jax.training import peers\n"
        "peers._before_abort(lambda: os._exit(75))\n"
        "threading.Thread(target=ctypes.CDLL(None).abort).start()\n"
        "time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == RESTART


def test_a_coordinator_that_listens_answers():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert peers._answers(address)
    assert not peers._answers(address)
    assert not peers._answers("")


# The real thing: two processes of a run.

LINE = re.compile(
    r"process (\d) of 2 on \S+ is missing \(no sign of life for \d+ s\) while process \d .*step \d+"
)


@pytest.fixture
def run(tmp_path, tiny_data) -> list[str]:
    """The flags of a run that would take hours, and notices losses soon."""
    changes = {"train__epochs": 10_000, "train__log_every": 1, "checkpoint__every_steps": 2}
    config = write_config(tmp_path / "mine.py", tiny_data, **changes)
    return [f"--config={config}", f"--workdir={tmp_path / 'run'}", "--lost_after=15"]


def wait_for_steps(workdir: Path, count: int = 4) -> None:
    end = time.monotonic() + 300
    while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        assert time.monotonic() < end
        time.sleep(0.2)


def assert_named(other: subprocess.Popen[str], missing: int) -> None:
    shown = finish(other, RESTART)
    found = LINE.search(shown.splitlines()[-1])
    assert found and int(found[1]) == missing, shown
    assert "Traceback" not in shown.splitlines()[-1]


def assert_goes_on(flags: list[str], workdir: Path) -> None:
    before = max(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit())
    done = start(*flags, f"--config.train.max_steps={before + 2}", "--num_processes=1")
    finish(done)
    assert (workdir / "eval/test/metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_other_process_names_the_lost_one_and_the_run_goes_on_alone(
    tmp_path, run, victim, number
):
    both = start_together(2, *run)
    wait_for_steps(tmp_path / "run")
    both[victim].send_signal(number)
    try:
        assert_named(both[1 - victim], victim)
    finally:
        both[victim].kill()
        both[victim].communicate()
    assert_goes_on(run, tmp_path / "run")


@pytest.fixture
def network() -> Iterator[list[str]]:
    """Names of two network namespaces that reach each other, as 10.77.0.1 and 10.77.0.2."""
    names = [f"diffmic{os.getpid()}{side}" for side in "ab"]
    links = [f"v{os.getpid() % 10**6}{side}" for side in "ab"]
    script = [f"ip netns add {name}" for name in names]
    script += [f"ip link add {links[0]} type veth peer name {links[1]}"]
    for i, (name, link) in enumerate(zip(names, links, strict=True), 1):
        script += [
            f"ip link set {link} netns {name}",
            f"ip -n {name} addr add 10.77.0.{i}/24 dev {link}",
            f"ip -n {name} link set {link} up",
            f"ip -n {name} link set lo up",
            # Gloo listens where the host's own name leads to.
            f"mkdir -p /etc/netns/{name}",
            f"echo '10.77.0.{i} {socket.gethostname()}' > /etc/netns/{name}/hosts",
        ]
    try:
        done = subprocess.run(["sh", "-ec", "\n".join(script)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs network namespaces: {done.stderr}")
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)


def start_in(name: str, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, PROJECT / "main.py", *argv],
        cwd=PROJECT,
        env=environment() | {"JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_process_that_loses_its_network_ends_and_so_does_the_other(tmp_path, run, network):
    flags = [*run, "--coordinator=10.77.0.1:23456", "--num_processes=2"]
    both = [start_in(name, *flags, f"--process_id={i}") for i, name in enumerate(network)]
    wait_for_steps(tmp_path / "run")
    subprocess.run(["ip", "-n", network[1], "link", "set", "lo", "down"], check=True)
    links = subprocess.run(
        ["ip", "-n", network[1], "-o", "link"], check=True, capture_output=True, text=True
    ).stdout
    (link,) = re.findall(r"\d+: (v\w+)@", links)
    subprocess.run(["ip", "-n", network[1], "link", "set", link, "down"], check=True)
    assert_named(both[0], 1)
    assert_named(both[1], 0)
    assert_goes_on(run, tmp_path / "run")


@pytest.mark.slow
def test_a_process_that_never_comes_is_not_waited_for_for_ever(tmp_path, run):
    flags = [*run, "--coordinator=127.0.0.1:23457", "--num_processes=2"]
    alone = start(*flags, "--process_id=0")
    shown = finish(alone, RESTART)
    assert "process 1 of 2 has not come within 120 s" in shown.splitlines()[-1]

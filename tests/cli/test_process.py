from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from diffmic_jax.cli.process import run_command
from diffmic_jax.errors import InputError, Interrupted, NonFiniteLossError
from tests.processes import PROJECT


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a.csv:\n  fix it"), 2, "error: a.csv: fix it"),
        (NonFiniteLossError("at 5; there is none"), 1, "error: at 5; there is none"),
        (Interrupted("at 5"), 75, "at 5; run the same command again to go on"),
        (
            OSError(36, "File name too long", "aaa"),
            2,
            "error: aaa: cannot be used (File name too long); name another, or mend it",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; run the same command again to go on",
        ),
    ],
)
def test_what_a_user_can_change_is_one_line_and_a_status(error, status, line, capsys):
    def main() -> None:
        raise error

    assert run_command(main) == status
    assert capsys.readouterr().err == f"{line}\n"


def test_success_is_silent_and_0(capsys):
    assert run_command(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 / 0))


def test_the_log_comes_once_however_many_commands_run(capsys):
    for _ in range(2):
        run_command(lambda: logging.getLogger("diffmic_jax").info("hello"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["hello", "hello"]


@pytest.mark.parametrize("order", ["keep_compiled(); import jax", "import jax; keep_compiled()"])
@pytest.mark.parametrize("given", [None, "", "elsewhere"])
def test_compiled_programs_are_kept_where_the_environment_has_no_other_folder(
    given, order, cache_folder
):
    name = "JAX_COMPILATION_CACHE_DIR"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    code = f"from diffmic_jax.data.places import keep_compiled; {order}"
    code += f"; print(repr(jax.config.{name.lower()}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    usual = str(cache_folder / "diffmic_jax/compiled")
    assert done.stdout.strip() == repr(usual if given is None else given)


@pytest.mark.parametrize(
    "command", [["main.py"], ["-m", "diffmic_jax"], ["-m", "diffmic_jax", "train"]]
)
def test_help_does_not_wait_for_jax(command):
    code = [sys.executable, "-X", "importtime", *command, "--help"]
    shown = subprocess.run(code, capture_output=True, text=True, check=True, cwd=PROJECT)
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "diffmic_jax.cli.process" in imported
    assert not imported & {"jax", "flax", "orbax", "tensorflow_datasets", "grain", "sklearn"}


def test_a_pipe_that_is_closed_is_no_error():
    code = (
        "import sys; from diffmic_jax.cli.process import run_command;"
        "sys.exit(run_command(lambda: print('a line\\n' * 100_000)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "a line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


def test_another_failed_assertion_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(AssertionError, match="of our own"):
        run_command(lambda: (_ for _ in ()).throw(AssertionError("of our own")))


def test_echoes_of_a_failed_save_are_not_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    assert run_command(lambda: None) == 0
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert capsys.readouterr().err == ""
    sys.excepthook(RuntimeError, RuntimeError("else"), None)
    assert capsys.readouterr().err == "RuntimeError: else\n"


ECHO = """
import asyncio
import sys
import threading

import tensorstore
from diffmic_jax.cli.process import run_command

run_command(lambda: None)
promise, write = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *told: None)
waiting = loop.create_task(asyncio.wait_for(write, None))
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
thread = threading.Thread(target=promise.set_exception, args=(OSError("no space"),))
thread.start()
thread.join()
waiting._log_destroy_pending = False
"""


def test_nor_are_those_that_come_from_a_thread_of_tensorstore():
    done = subprocess.run([sys.executable, "-c", ECHO], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_message_is_one_line_with_an_end_and_without_codes(capsys):
    def fails() -> None:
        raise InputError("\x1b]0;owned\x07 a\nb \udce9 " + "9" * 10**6)

    assert run_command(fails) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: \\x1b]0;owned\\x07 a b \\udce9 999")
    assert len(line) < 5000

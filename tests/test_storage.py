"""Storage that lies: no room, no rename, a clock that jumps; one line, and the command goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import PROJECT, environment, write_config

pytestmark = pytest.mark.slow

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static int refused(const char *path) {
    const char *under = getenv("NO_RENAME_UNDER");
    if (!under || !strstr(path, under)) return 0;
    errno = EOPNOTSUPP;
    return 1;
}
int rename(const char *from, const char *to) {
    if (refused(to)) return -1;
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    if (refused(to)) return -1;
    return ((int (*)(int, const char *, int, const char *))dlsym(RTLD_NEXT, "renameat"))(
        a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    if (refused(to)) return -1;
    return ((int (*)(int, const char *, int, const char *, unsigned int))dlsym(
        RTLD_NEXT, "renameat2"))(a, from, b, to, flags);
}
static long jump(void) { /* up to a day, to and fro */
    static unsigned int seed = 7;
    return getenv("CLOCK_JUMPS") ? (long)(rand_r(&seed) % 172800) - 86400 : 0;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && id == CLOCK_REALTIME) now->tv_sec += jump();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int failed = ((int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday"))(now, zone);
    if (!failed) now->tv_sec += jump();
    return failed;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    """A library that makes the system lie, as the environment says."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    command = ["cc", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    return folder / "shim.so"


def diffmic(*argv: str, limit: str = "", **variables: str) -> tuple[int, str]:
    """A command in a process of its own; the status, and what it shows on standard error."""
    words = [sys.executable, "-m", "diffmic_jax", *argv]
    done = subprocess.run(
        ["bash", "-c", f'{limit or "true"}; exec "$@"', "-", *words],
        cwd=PROJECT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stderr


def assert_one_line(status: int, shown: str) -> str:
    assert status in (1, 2), shown
    assert "Traceback" not in shown
    (line,) = [each for each in shown.splitlines() if each.startswith("error: ")]
    assert shown.rstrip().endswith(line)
    return line


Argv = Callable[[Path], list[str]]


@pytest.fixture
def commands(tmp_path, tiny_data, trained) -> dict[str, Argv]:
    """By name: a command that writes under a folder."""
    config = write_config(tmp_path / "mine.py", tiny_data, checkpoint__every_steps=3)
    own = f"--config.data.cache_dir={tmp_path}/cache"
    tables = ["--uncertainty={}/sure.csv", "--out={}/out.csv"]
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    return {
        "train": lambda f: ["train", f"--config={config}", f"--workdir={f}/run", own],
        "predict": lambda f: [
            *("predict", f"--workdir={workdir}", f"--images={tiny_data / 'test'}"),
            *(each.format(f) for each in tables),
        ],
        "export": lambda f: ["export", f"--workdir={workdir}", f"--out={f}/model.stablehlo"],
        "report": lambda f: ["report", f"--workdir={workdir}", f"--out={f}/report.html"],
    }


def check(name: str, folder: Path) -> None:
    if name == "train":
        assert json.loads((folder / "run/eval/test/metrics.json").read_text())["n"] == tiny.TEST
    else:
        assert all(path.stat().st_size > 0 for path in folder.iterdir())
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        *(("train", blocks) for blocks in (0, 1, 8, 64, 250)),
        *(("predict", blocks) for blocks in (0, 1)),
        *(("export", blocks) for blocks in (0, 100)),
        *(("report", blocks) for blocks in (0, 100)),
    ],
)
def test_a_limit_to_the_size_of_files_is_one_line_and_the_command_goes_on(
    tmp_path, commands, name, blocks
):
    folder = tmp_path / "out"
    folder.mkdir()
    argv = commands[name](folder)
    status, shown = diffmic(*argv, limit=f"ulimit -f {blocks}")
    line = assert_one_line(status, shown)
    print(f"SEEN {name} {blocks}: {status} {line}")
    status, shown = diffmic(*argv)
    assert status == 0, shown
    check(name, folder)


@pytest.mark.parametrize("name", ["train", "predict", "export"])
def test_a_file_system_without_rename_is_one_line(tmp_path, commands, shim, name):
    folder = tmp_path / "out"
    folder.mkdir()
    lie = {"LD_PRELOAD": str(shim), "NO_RENAME_UNDER": str(folder)}
    line = assert_one_line(*diffmic(*commands[name](folder), **lie))
    print(f"SEEN {name}: {line}")
    assert "not supported" in line
    assert not [path for path in folder.rglob("*") if path.suffix in (".csv", ".stablehlo")]
    status, shown = diffmic(*commands[name](folder))
    assert status == 0, shown
    check(name, folder)


def test_a_clock_that_jumps_changes_nothing(tmp_path, commands, shim):
    lie = {"LD_PRELOAD": str(shim), "CLOCK_JUMPS": "1"}
    found = []
    for name, variables in (("true", {}), ("jumps", lie)):
        folder = tmp_path / name
        status, shown = diffmic(*commands["train"](folder), **variables)
        assert status == 0, shown
        check("train", folder)
        found.append((folder / "run/eval/test/metrics.json").read_bytes())
    assert found[0] == found[1]


def test_a_full_disk_stops_each_write_with_one_line(tmp_path, commands):
    """Mounts a small file system, and lets it fill up at another place every time."""
    room = tmp_path / "room"
    room.mkdir()
    for kilobytes in (40, 200, 700, 1500):
        mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs {room}"
        words = " ".join(commands["train"](room))
        script = f"{mount}; {sys.executable} -m diffmic_jax {words}"
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            cwd=PROJECT,
            env=environment(),
            capture_output=True,
            text=True,
        )
        if "mount" in done.stderr or "unshare" in done.stderr:
            pytest.skip("needs unshare and mount")
        line = assert_one_line(done.returncode, done.stderr)
        print(f"SEEN train on {kilobytes} kB: {done.returncode} {line}")
        assert "No space left" in line or "free" in line
    assert not os.listdir(room)

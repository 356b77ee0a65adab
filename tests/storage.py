"""Storage and a clock that lie to commands: one line, and the same command goes on.

    python -m tests.storage

Files may grow to a limit only, the disk is full, there is no rename, the clock jumps at every call.
After each fault the command has to end with one line and without a traceback; the same
command without the fault then has to leave what an undisturbed one leaves.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffmic_jax.cli import main as cli
from tests import kills
from tests.kills import Command

LIMITS = {
    "train": (0, 1, 8, 40, 150, 400),
    "study": (2,),
    "prepare": (0, 2, 30),
    "predict": (0, 1),
    "export": (0, 100),
    "fit": (300, 700),
}
"""Kilobytes that a file may have."""
DISKS = {"train": (40, 120, 400, 900, 1500), "export": (100, 600), "predict": (4,)}
"""Kilobytes that the file system has."""
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
    if (!under || !*under || !strstr(path, under)) return 0;
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
    const char *on = getenv("CLOCK_JUMPS");
    return on && *on ? (long)(rand_r(&seed) % 172800) - 86400 : 0;
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


def with_shim(folder: Path) -> None:
    """Start this program again with the library that lies, unless that is so already."""
    if "LD_PRELOAD" in os.environ:
        return
    source = folder / "shim.c"
    source.write_text(SHIM)
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    # Mounts of a namespace of its own go with it.
    command = ["unshare", "--mount", sys.executable, "-m", "tests.storage", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=os.environ).returncode)


def faulty(command: Command, folder: Path, fault: Callable[[], None]) -> tuple[int, str]:
    """Run a command under a fault; its status, and what it shows."""
    folder.mkdir(exist_ok=True)
    shown, log = os.pipe()  # a file would have the same limit

    def act() -> int:
        fault()
        return cli.main(command.argv(folder))

    child = kills.forked(act, log)
    os.close(log)
    with open(shown, errors="replace") as file:
        text = file.read()
    return kills.ended(child), text


def line_of(status: int, shown: str) -> str:
    """The one line that a command ends with.

    Raises:
      AssertionError: it shows something else.
    """
    assert status in (1, 2), (status, shown)
    assert "Traceback" not in shown, shown
    lines = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and shown.rstrip().endswith(lines[0]), shown
    return lines[0]


def file_limit(kilobytes: int) -> Callable[[], None]:
    """Files of this process grow no further."""

    def fault() -> None:
        size = 1024 * kilobytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return fault


def mount(room: Path, kilobytes: int, how: str = "") -> None:
    room.mkdir(exist_ok=True)
    options = f"{how}size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", room], check=True)


class Faults:
    """Makes faults, and compares what is left in the end."""

    def __init__(self, home: Path, only: str) -> None:
        """In a folder; `only` is a part of the names of those to make."""
        self._home, self._only, self._count = home, only, 0
        if not (home / "trained.json").exists():
            kills.write_home(home)
        self._commands = kills.commands(home)
        self._wanted: dict[str, Any] = {}

    def wanted(self, name: str) -> Any:
        """What the undisturbed command leaves."""
        if name not in self._wanted:
            self._wanted[name], _ = kills.whole(
                self._commands[name], self._home / f"{name}-undisturbed"
            )
        return self._wanted[name]

    def make(
        self,
        what: str,
        name: str,
        fault: Callable[[], None],
        *,
        room: Path | None = None,
        mended: Callable[[], None] = lambda: None,
        fails: bool | None = True,
    ) -> None:
        """One fault in one command, which fails, does not, or (None) may do either."""
        if self._only not in f"{name}: {what}":
            return
        wanted = self.wanted(name)
        self._count += 1
        folder = room or self._home / f"{name}-{self._count}"
        status, shown = faulty(self._commands[name], folder, fault)
        if status == 0:
            # The fault struck only what can be done without, or nothing.
            line = "ended well"
            assert fails is not True or "limit" in what or "disk" in what, what
        else:
            line = line_of(status, shown)
            assert fails is not False, shown
        mended()
        found, _ = kills.whole(self._commands[name], folder)
        assert found == wanted, (what, name, found, wanted)
        told = line.replace(str(self._home), "...")
        print(f"{name}: {what}: {status} {told}; then the same command: equal", flush=True)

    @property
    def count(self) -> int:
        """Faults made."""
        return self._count


def run(home: Path, only: str) -> int:
    """Make all faults whose name contains a text; gives their number."""
    faults = Faults(home, only)
    for name, sizes in LIMITS.items():
        for size in sizes:
            faults.make(f"limit of {size} kB to a file", name, file_limit(size))
    for name, sizes in DISKS.items():
        for size in sizes:
            room = home / f"room-{name}-{size}"
            if only in f"{name}: disk of {size} kB":
                mount(room, size)

            def mended(room: Path = room) -> None:
                mount(room, 10**6, "remount,")

            faults.make(f"disk of {size} kB", name, lambda: None, room=room, mended=mended)
    for name in ("train", "prepare", "predict", "export"):

        def no_rename(name: str = name) -> None:
            os.environ["NO_RENAME_UNDER"] = f"{home}/{name}-"

        faults.make("no rename", name, no_rename)
    for name in ("train", "predict", "prepare"):
        jumps = lambda: os.environ.update(CLOCK_JUMPS="1")  # noqa: E731
        # Orbax gives a save up by that clock.
        faults.make("the clock jumps", name, jumps, fails=None if name == "train" else False)
    return faults.count


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of a fault, as 'train: disk'")
    parser.add_argument("--home", type=Path, help="folder to work in, which is kept for next time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with_shim(Path(folder))
        ctypes.CDLL(None).prctl(1, 9)  # do not outlive whoever started this
        home = args.home or Path(folder)
        home.mkdir(exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
        count = run(home, args.only)
    print(f"{count} faults, nothing lost")


if __name__ == "__main__":
    sys.exit(main())

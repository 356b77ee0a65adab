"""Every row of docs/mistakes.md: what is typed, and the line that comes."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.cli import train
from tests import tiny
from tests.processes import PROJECT, environment

pytestmark = pytest.mark.whole

PAGE = PROJECT / "docs/mistakes.md"
ROW = re.compile(r"^\| `(.+?)` \| (.+?) \|$", re.M)
PHOTOS = [f"photos/{c}/{c}_{i:02d}.png" for c, i in (("red", 0), ("blue", 0), ("red", 1))]
TABLES = {
    "labels": "image,label\n{0},red\nphotos/b.png,blue\n",
    "missing": "image,label\n{0},red\n{1},N/A\n{2},blue\n",
    "several": "image,label\n{0},red\n{1},blue\n{2},red;blue\n",
    "findings": "image,mass,nodule\n{0},1,0\n{1},-1,1\n",
    "levels": "image,label\n{0},0\n{1},1\n{2},3\n",
    "twice": "image,label\n{0},red\n{1},blue\n{0},blue\n",
    "ages": "image,age\n{0},60\n{1},50\n",
    "old": "image,label\n{0},gr\u00fcn\n{1},rot\n",
}
"""Of the photos."""
ROWS = [
    (typed.replace("\\|", "|"), line.replace("\\|", "|"))
    for typed, line in ROW.findall(PAGE.read_text())
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained) -> Path:
    """The folder that the page describes; nothing in it changes, as nothing is done."""
    root = tmp_path_factory.mktemp("mistakes")
    tiny.write_images(root / "photos", 4)
    shutil.copytree(root / "photos", root / "mixed")
    shutil.copy(root / "photos/red/red_00.png", root / "mixed/stray.png")
    shutil.copytree(root / "photos/red", root / "single/red")
    shutil.copytree(root / "photos/red", root / "new")
    for name in ("empty", "broken", "runs"):
        (root / name).mkdir()
    tiny.write_truncated_jpeg(root / "broken/half.jpg")
    (root / "notes.txt").write_text("to do\n")
    for name, rows in TABLES.items():
        (root / f"{name}.csv").write_text(rows.format(*PHOTOS), encoding="latin-1")
    shutil.copytree(root / "photos", root / "parts")
    shutil.copytree(root / "photos/red", root / "parts/test")
    (root / "runs/mine").symlink_to(trained)
    return root


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line of a command that is wrong; it ends with 2 and prints nothing else."""
    capsys.readouterr()
    command, *rest = words
    # More processes would have to be joined before JAX has run.
    alone = ["--num_processes=1"] if command == "python" or "study" in rest else []
    run = cli.main if command == "diffmic" else train.main
    status = run([*rest, *alone])
    found = capsys.readouterr()
    assert (status, found.out) == (2, "")
    (line,) = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert found.err.endswith(f"{line}\n")
    return line.removeprefix("error: ")


def test_there_are_forty_mistakes():
    assert len(ROWS) >= 40
    assert len({typed for typed, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("typed", "line"), ROWS)
def test_a_mistake_gives_the_line_of_the_page(typed, line, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    words = shlex.split(typed)
    if "=" in words[0]:  # a variable, which a process reads when it starts
        name, _, value = words[0].partition("=")
        command = [sys.executable, "-m", "diffmic_jax", *words[2:]]
        own = environment() | {name: value}
        process = subprocess.run(command, env=own, capture_output=True, text=True, cwd=place)
        assert (process.returncode, process.stdout) == (2, "")
        found = process.stderr.strip().removeprefix("error: ")
    else:
        before = sorted(place.rglob("*"))
        found = shown(words, capsys)
        assert sorted(place.rglob("*")) == before
    start, more, _ = line.partition("...")
    assert found.startswith(start) if more else found == line

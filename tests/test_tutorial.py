"""Every command of docs/tutorial.md and docs/further.md runs, on fewer images and tiny networks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from diffmic_jax.cli import main as cli
from diffmic_jax.cli import train
from diffmic_jax.planning import budget
from diffmic_jax.planning.budget import Cost
from diffmic_jax.planning.rules import Machine
from diffmic_jax.serve import app
from diffmic_jax.training.run import TrainingRun
from tests import tiny
from tests.processes import PROJECT

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)
PAGES = ("tutorial", "further")
BLOCKS = [
    found for name in PAGES for found in BLOCK.findall((PROJECT / f"docs/{name}.md").read_text())
]
FEWER = {"[:612]": "[:92]", "index < 600": "index < 80", "new/0600.png": "new/0080.png"}
SETUP = ("scripts/setup", "source", "pip")
"""Words of commands that a test does not run: they make the environment that it runs in."""


def small(recipe: str) -> dict[str, object]:
    """Fields of a run that takes seconds."""
    fields = tiny.TINY | {"train.epochs": 1, "train.max_steps": 3, "guidance.pretrained": ""}
    if recipe == "plus":
        fields |= {"denoiser.pretrained": "", "guidance.backbone": "tiny"}
    if recipe == "v1":
        fields |= tiny.DIFFUSING
    return fields


def commands() -> list[list[str]]:
    """The words of every command, in order."""
    text = "\n".join(block for kind, block in BLOCKS if kind == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str]) -> int:
    """Run a command in this process, a training with tiny networks."""
    program, *rest = words
    if program == "python":
        fields = [f"--config.{name}={value}" for name, value in small("v1").items()]
        return train.main([*rest, *fields, "--num_processes=1"])
    assert program == "diffmic"
    if rest[0] == "fit":
        planned = not any(word.startswith("--config=") for word in rest)
        recipe = "strong" if planned else rest[2].partition(":")[2]
        if planned:
            rest += ["--set=guidance.backbone='tiny'", "--set=guidance.tune='full'"]
        else:  # the number of epochs is what is made small, so the minutes cannot choose it
            rest = [word for word in rest if not word.startswith("--minutes")]
        rest += [f"--set={name}={value!r}" for name, value in small(recipe).items()]
    return cli.main(rest)


@pytest.mark.whole
def test_the_commands_of_the_tutorial_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # A slow machine, on which an epoch fits once.
    monkeypatch.setattr(TrainingRun, "_pace", lambda *args: None)
    monkeypatch.setattr(budget, "machine", lambda source: Machine(devices="a test", seconds=10))
    cost = Cost(start=0, warmup=0, epoch=1e4, save=0, end=0)
    monkeypatch.setattr(budget, "measure", lambda run: cost)
    monkeypatch.setattr(app, "serve", lambda *args, **_: print("serves", *args))
    scripts = [block for kind, block in BLOCKS if kind == "python"]
    for old, new in FEWER.items():
        scripts = [block.replace(old, new) for block in scripts]
    first, last = scripts
    exec(compile(first, "tutorial", "exec"), {})
    done = []
    for words in commands():
        if words[0] in SETUP:
            continue
        assert run(words) == 0, (words, capsys.readouterr().err)
        done.append(words[1])
    assert done == [
        *("audit", "fit", "predict"),
        *("evaluate", "report", "predict", "serve", "export", "fit", "compare", "evaluate"),
        "main.py",
    ]
    assert {"report.html", "CHECKLIST.md", "MODEL_CARD.md", "split.csv"} <= {
        path.name for path in Path("runs/mine").iterdir()
    }
    capsys.readouterr()
    exec(compile(last, "tutorial", "exec"), {})
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    row = next(line for line in Path("new.csv").read_text().splitlines() if "0080.png" in line)
    told = dict(zip(shown, row.split(",")[2:], strict=False))
    assert {name: f"{float(p):.3f}" for name, p in told.items()} == shown


def test_the_pages_of_the_documents_name_only_commands_that_exist():
    known = {"train", *cli.commands.COMMANDS}
    for page in (PROJECT / "docs").rglob("*.md"):
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            for name in re.findall(r"^diffmic (\w+)", block, re.M):
                assert name in known, f"{page}: diffmic {name}"

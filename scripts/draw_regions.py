"""Where a guidance network looks: its regions and its saliency on some images, as one PNG.

    python scripts/draw_regions.py --workdir=runs/mine --out=after.png
    python scripts/draw_regions.py --config=quickstart --set=guidance.saliency_stride=8 --out=a.png

A workdir gives the best checkpoint of a run, a configuration the networks before their first step,
with the pretrained trunks that it asks for. Above are the images with their regions, redder for
more attention; below is the grid that chose them, brighter for more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from diffmic_jax import configfile
from diffmic_jax.cli.process import run_command
from diffmic_jax.data.cache import Examples
from diffmic_jax.data.dataset import Dataset, open_dataset
from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load
from diffmic_jax.method.build import Method, build
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.study.definition import parse_change
from diffmic_jax.training import panels, parallel
from diffmic_jax.training.pretrained import initial_state
from diffmic_jax.types import Variables


def networks(args: argparse.Namespace) -> tuple[Method, Variables, Dataset]:
    """Those of the run or of the configuration, and its data."""
    if args.workdir:
        model = load(args.workdir)
        return model.method, model.variables, open_dataset(model.config)
    config = configfile.load(args.config).changed(dict(map(parse_change, args.set)))
    dataset = open_dataset(config)
    method = build(config, dataset.task)
    state, _ = initial_state(method, config, parallel.make_mesh())
    return method, state.variables(), dataset


def of_all_classes(examples: Examples, count: int) -> np.ndarray:
    """Images [N, S, S, 3] of a part: the first of each class or label, then the second, ..."""
    seen: dict[str, int] = {}
    order = []
    for i, label in enumerate(examples.label):
        name = str(label)
        seen[name] = seen.get(name, -1) + 1
        order.append((seen[name], i))
    return examples.images(np.sort([i for _, i in sorted(order)[:count]]))


def draw(args: argparse.Namespace) -> None:
    """Write the picture."""
    if bool(args.workdir) == bool(args.config):
        raise InputError("give --workdir or --config, one of them")
    method, variables, dataset = networks(args)
    if not isinstance(method.guidance, DCG):
        raise InputError(f"the recipe {method.name} has no regions; give guidance.network=dcg")
    images = of_all_classes(dataset.examples[args.split], args.images)
    found = panels.compiled_guide(method)(variables, images)
    above = panels.draw(found, images, method.guidance.region_size)
    below = panels.draw_saliency(np.asarray(method.guidance.merged(found)), above.shape[0])
    Image.fromarray(np.concatenate([above, below])).save(args.out)
    print(f"written to {args.out}")


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, help="of a run")
    parser.add_argument("--config", help="NAME or FILE, with :RECIPE behind it or not")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    args = parser.parse_args()
    return run_command(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())

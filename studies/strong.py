"""A strong plain classifier beside networks from random weights, at equal minutes.

    diffmic study studies/strong.py:smoke --workdir=runs/strong-smoke
    diffmic study studies/strong.py:ham10000 --workdir=runs/strong-ham10000 --set=data.root=DIR
    diffmic study studies/strong.py:busi --workdir=runs/strong-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/strong.py:eyepacs --workdir=runs/strong-eyepacs \
        --set=data.root=DIR --set=data.labels=labels.csv --set=data.groups=groups.csv
    diffmic study studies/strong.py:chestxray14 --workdir=runs/strong-chestxray14 \
        --set=data.root=DIR
    diffmic study studies/strong.py:retinamnist --workdir=runs/strong-retinamnist \
        --set=data.root=DIR

Each training and its evaluation take the minutes of `VARIANTS` on the machine at hand: run them
where nothing else runs. `head` trains the last layer alone, on features of pretrained weights.
"""

from typing import Any

from diffmic_jax.study.definition import Row, Study
from studies import settings

SMALL, RANDOM = {"data.image_size": 64}, {"guidance.pretrained": ""}
MEDIUM = {"data.image_size": 128}
GROUPED = {"data.name": "images", "data.protocol": "grouped", "data.validation_fraction": 0.15}
RETINAS = {"data.flip": "both", "model.stem": "imagenet"}
VARIANTS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "smoke": ("configs/quickstart.py:", settings.SMOKE, None),
    "ham10000": ("configs/ham10000.py:", MEDIUM | {"data.flip": "both"}, 30),
    "busi": ("configs/busi.py:", MEDIUM | {"data.validation_fraction": 0.15}, 4),
    "eyepacs": ("configs/default.py:", MEDIUM | GROUPED | {"data.flip": "both"}, 4),
    "chestxray14": ("configs/chestxray14.py:", SMALL | {"guidance.region_size": 24}, 4),
    "retinamnist": ("configs/medmnist.py:retinamnist,", SMALL | RETINAS, 4),
}
"""Configuration, changes of every row, and minutes of each training."""
HEAD = {
    "guidance.tune": "head",
    "guidance.views": 8,
    "guidance.drop_path": 0.0,
    "train.epochs": 60,
    "train.batch_size": 32,
}


def get_study(variant: str = "ham10000") -> Study:
    """Two networks from random weights, and one from ImageNet's, its head alone and all of it.

    Raises:
      ValueError: for another variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    config, changes, minutes = VARIANTS[variant]
    rows = (
        Row("resnet18-random", f"{config}classifier", RANDOM),
        Row("lite0-random", f"{config}strong", RANDOM),
        Row("lite0-head", f"{config}strong", HEAD),
        Row("strong", f"{config}strong"),
    )
    seeds = (0,) if variant == "smoke" else (0, 1)
    return Study(f"strong, {variant}", rows, seeds, changes, minutes)

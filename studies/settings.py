"""The data sets and budgets that the studies share, by the name of the variant."""

from typing import Any

# On the embedded phantom, in minutes on two cores.
SMOKE = {"guidance.warmup_epochs": 3, "train.epochs": 6, "eval.bootstrap": 200}

_SMALL = {
    "data.image_size": 64,
    "data.validation_fraction": 0.0,
    "guidance.pretrained": "",
    "guidance.backbone": "resnet18",
    "guidance.num_regions": 4,
    "denoiser.feature_dim": 512,
    "denoiser.pretrained": "",
}
# The authors' code was measured with these: 64 px, small networks, no validation part, the last
# step evaluated.
BUSI = _SMALL | {"guidance.warmup_epochs": 5, "train.epochs": 30, "train.batch_size": 32}
HAM10000 = _SMALL | {"guidance.warmup_epochs": 3, "train.epochs": 12, "train.batch_size": 64}
THREE = (0, 1, 2)


def get(variant: str, full: str) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """Configuration file, changes of every row, and seeds.

    Args:
      variant: `smoke`, `busi`, `ham10000`, or `full`.
      full: the configuration of `full`, which is run as it is.

    Raises:
      ValueError: for another variant.
    """
    known: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
        "smoke": ("configs/quickstart.py", SMOKE, THREE),
        "busi": ("configs/busi.py", BUSI, THREE),
        "ham10000": ("configs/ham10000.py", HAM10000 | {"data.protocol": "authors"}, (0,)),
        "full": (full, {}, THREE),
    }
    if variant not in known:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(known)}")
    return known[variant]

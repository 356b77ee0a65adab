"""MedMNIST: any two-dimensional member, as `configs/medmnist.py:dermamnist`.

Put `dermamnist.npz`, or another size of it such as `dermamnist_224.npz`, under `data.root`. A
recipe follows after a comma. The split is MedMNIST's own.

    python main.py --config=configs/medmnist.py:dermamnist --config.data.root=DIR
    python main.py --config=configs/medmnist.py:chestmnist,v1_public --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import default
from diffmic_jax.data.catalog import MEDMNIST


def get_config(spec: str = "dermamnist") -> ConfigDict:
    """Small images at 64 px; `spec` is the name of a member, perhaps with a recipe.

    Raises:
        ValueError: for an unknown member.
    """
    name, _, recipe = spec.partition(",")
    if name not in MEDMNIST:
        raise ValueError(f"configs/medmnist.py:{name} is not one of {', '.join(MEDMNIST)}")
    c = default.get_config(recipe or "v1")
    c.data.name = name
    c.data.root = "data/medmnist"
    c.data.image_size = 64
    c.guidance.stem = "small"
    c.denoiser.stem = "small"
    c.guidance.region_size = 24
    c.train.epochs = 100
    if name == "chestmnist":  # multi-label
        c.train.label_balance = 0.0  # which labels of one class can have
        c.checkpoint.metric = "auroc_macro"
    return c

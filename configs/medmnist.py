"""MedMNIST: any two-dimensional member, as `configs/medmnist.py:dermamnist`.

Put `dermamnist.npz`, or another size of it such as `dermamnist_224.npz`, under `data.root`. A
recipe follows after a comma. The split is MedMNIST's own.

    python main.py --config=configs/medmnist.py:dermamnist --config.data.root=DIR
    python main.py --config=configs/medmnist.py:chestmnist,v1_public --config.data.root=DIR
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes
from diffmic_jax.data.catalog import MEDMNIST
from diffmic_jax.errors import InputError

CHANGES = {
    "data.root": "data/medmnist",
    "data.image_size": 64,
    "model.stem": "small",
    "guidance.region_size": 24,
    "train.epochs": 100,
}
BY_MEMBER = {  # several labels per image
    "chestmnist": {"train.label_balance": 0.0, "checkpoint.metric": "auroc_macro"}
}


def get_config(spec: str = "dermamnist") -> ConfigDict:
    """Small images at 64 px; `spec` is the name of a member, perhaps with a recipe.

    Raises:
        InputError: for an unknown member.
    """
    name, _, recipe = spec.partition(",")
    if name not in MEDMNIST:
        raise InputError(f"configs/medmnist.py:{name} is not one of {', '.join(MEDMNIST)}")
    changes = CHANGES | {"data.name": name} | BY_MEMBER.get(name, {})
    return recipes.config_dict(recipe or "v1", changes)

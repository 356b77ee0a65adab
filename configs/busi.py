"""BUSI: breast ultrasound, 780 images in three classes (Al-Dhabyani et al. 2020).

Put the class folders `benign`, `malignant` and `normal` under `data.root`; masks beside the images
are left out. A CSV `image,label,split` can give the split.

    python main.py --config=configs/busi.py --config.data.root=DIR --config.data.labels=split.csv
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {"data.name": "busi", "data.root": "data/busi", "data.test_fraction": 0.3}


def get_config(recipe: str = "v1") -> ConfigDict:
    """A recipe as it is; no paper has this data set."""
    return recipes.config_dict(recipe, CHANGES)

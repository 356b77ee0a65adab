"""PMG2000: placental maturity grading, 2,098 ultrasound images in four grades.

The data set is not public. Put one folder per grade under `data.root`, or the lists `train.pkl` and
`test.pkl` with the images they name. Published (v1): accuracy 0.931, macro-F1 0.926. Other than
there, a tenth of the training images is held out and selects the checkpoint (the authors' code
selects on the test images), and `v1` walks the full chain.

    python main.py --config=configs/pmg2000.py --config.data.root=DIR
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {"data.name": "pmg2000", "data.root": "data/pmg2000"}


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for PMG2000."""
    return recipes.config_dict(recipe, CHANGES)

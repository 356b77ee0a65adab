"""APTOS2019: diabetic retinopathy, 3,662 fundus images in five grades.

Put `train.csv` and `train_images/` under `data.root`, or prepare them first:

    python main.py --config=configs/aptos2019.py --config.data.root=DIR

`--config.data.protocol=authors` takes DiffMIC's own split (aptos_train.pkl and aptos_test.pkl in
DIR). Published on that split (v1): accuracy 0.858, macro-F1 0.716. Other than there, a tenth of the
training images is held out and selects the checkpoint (the authors' code selects on the test
images), and `v1` walks the full chain.
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {
    "data.name": "aptos2019",
    "data.root": "data/aptos2019",
    "data.test_fraction": 0.3,
    "data.flip": "both",
}
STEPS = {"sampling.num_steps": 60}  # v1, section 3.2
BY_RECIPE = {"v1": STEPS, "v1_public": STEPS}


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for APTOS2019."""
    return recipes.config_dict(recipe, CHANGES, BY_RECIPE)

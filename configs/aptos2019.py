"""APTOS2019: diabetic retinopathy, 3,662 fundus images in five grades.

Put `train.csv` and `train_images/` under `data.root`, or prepare them first:

    python main.py --config=configs/aptos2019.py --config.data.root=DIR

`--config.data.protocol=authors` takes DiffMIC's own split (aptos_train.pkl and aptos_test.pkl in
DIR). Published with this configuration and that split: accuracy 0.858, macro-F1 0.716.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for APTOS2019."""
    c = default.get_config(recipe)
    c.data.name = "aptos2019"
    c.data.root = "data/aptos2019"
    c.data.test_fraction = 0.3
    c.data.vertical_flip = True
    if recipe in ("v1", "v1_public"):  # v2's ten steps are for every data set
        c.sampling.num_steps = 60
    return c

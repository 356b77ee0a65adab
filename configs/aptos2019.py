"""APTOS2019: diabetic retinopathy, 3,662 fundus images in five grades.

Expects `train.csv` (id_code,diagnosis) and `train_images/*.png` under `data.root`. Published with
this configuration and the authors' split: accuracy 0.858, macro-F1 0.716.

    python main.py --config=configs/aptos2019.py --config.data.root=DIR \
        --config.data.train_list=aptos_train.pkl --config.data.test_list=aptos_test.pkl
"""

from ml_collections import ConfigDict

from configs import default


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for APTOS2019."""
    c = default.get_config(recipe)
    c.data.root = "data/aptos2019"
    c.data.labels = "train.csv"
    c.data.class_names = ("no_dr", "mild", "moderate", "severe", "proliferative")
    c.data.test_fraction = 0.3
    c.data.vertical_flip = True
    c.data.hint = (
        "download it from https://www.kaggle.com/c/aptos2019-blindness-detection and put "
        "train.csv and train_images/ there"
    )
    c.sampling.num_steps = 60
    return c

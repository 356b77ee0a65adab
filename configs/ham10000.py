"""HAM10000: skin lesions, 10,015 dermatoscopic images in seven classes.

Expects `images/ISIC_*.jpg` and `ISIC2018_Task3_Training_GroundTruth.csv` under `data.root`; with
`HAM10000_metadata.csv` beside them, no lesion is on both sides of the validation cut. Published
with this configuration and the authors' split: accuracy 0.906, macro-F1 0.816.

    python main.py --config=configs/ham10000.py --config.data.root=DIR \
        --config.data.train_list=isic2018_train.pkl --config.data.test_list=isic2018_test.pkl
"""

from ml_collections import ConfigDict

from configs import default


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for HAM10000; the batch of 64 is the authors' code's."""
    c = default.get_config(recipe)
    c.data.root = "data/ham10000"
    c.data.labels = "ISIC2018_Task3_Training_GroundTruth.csv"
    c.data.class_names = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")
    c.data.test_fraction = 0.3
    c.data.hint = (
        "download ISIC 2018 task 3 from https://challenge.isic-archive.com and put images/ and "
        "ISIC2018_Task3_Training_GroundTruth.csv there"
    )
    c.train.batch_size = 64
    c.sampling.num_steps = 250
    return c

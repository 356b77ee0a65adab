"""HAM10000: skin lesions, 10,015 dermatoscopic images in seven classes.

Put the archives as they are distributed under `data.root`, or prepare them first:

    python main.py --config=configs/ham10000.py --config.data.root=DIR

No lesion is on both sides of a cut. `--config.data.protocol=authors` takes DiffMIC's own split
(isic2018_train.pkl and isic2018_test.pkl in DIR), where a third of the test images show a lesion of
the training part, and evaluates the clean rest of them as `test_clean` too. Published on the
authors' split (v1): accuracy 0.906, macro-F1 0.816. Other than there, a tenth of the training
images is held out and selects the checkpoint (the authors' code selects on the test images), and
`v1` walks the full chain.
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {
    "data.name": "ham10000",
    "data.root": "data/ham10000",
    "data.test_fraction": 0.3,
    "train.batch_size": 64,  # the authors' code; the v1 paper has 32
}
STEPS = {"sampling.num_steps": 250}  # v1, section 3.2
BY_RECIPE = {"v1": STEPS, "v1_public": STEPS}


def get_config(recipe: str = "v1") -> ConfigDict:
    """The paper's settings for HAM10000."""
    return recipes.config_dict(recipe, CHANGES, BY_RECIPE)

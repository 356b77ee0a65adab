"""ChestX-ray14: 112,120 frontal chest X-rays with any of 14 findings each.

Put `Data_Entry_2017.csv`, `train_val_list.txt`, `test_list.txt` and the unpacked image archives
under `data.root`, or prepare them first. The official split is by patient, and so is the cut of the
validation part. Published on it: mean AUROC 0.819 (v1), 0.825 (v2).

    python main.py --config=configs/chestxray14.py --config.data.root=DIR
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes

CHANGES = {
    "data.name": "chestxray14",
    "data.root": "data/chestxray14",
    "train.epochs": 100,
    "train.label_balance": 0.0,  # needs images of one class
    "checkpoint.metric": "auroc_macro",
}
BY_RECIPE = {
    "v2": {
        "guidance.warmup_epochs": 20,
        "guidance.num_regions": 4,
        "guidance.region_size": 112,
    }
}


def get_config(recipe: str = "v1") -> ConfigDict:
    """Settings for ChestX-ray14; epochs, and the regions of v2, are the authors'.

    Their local encoder is DenseNet169; here it is ResNet18, as for every data set.
    """
    return recipes.config_dict(recipe, CHANGES, BY_RECIPE)

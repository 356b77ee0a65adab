"""ChestX-ray14: 112,120 frontal chest X-rays with any of 14 findings each.

Put `Data_Entry_2017.csv`, `train_val_list.txt`, `test_list.txt` and the unpacked image archives
under `data.root`, or prepare them first. The official split is by patient, and so is the cut of the
validation part. Published on it: mean AUROC 0.819 (v1), 0.825 (v2).

    python main.py --config=configs/chestxray14.py --config.data.root=DIR
"""

from ml_collections import ConfigDict

from configs import default


def get_config(recipe: str = "v1") -> ConfigDict:
    """Settings for ChestX-ray14; epochs, and the regions of v2, are the authors'."""
    c = default.get_config(recipe)
    c.data.name = "chestxray14"
    c.data.root = "data/chestxray14"
    c.train.epochs = 100
    if recipe == "v2":
        c.guidance.warmup_epochs = 20
        c.guidance.num_regions = 4
        c.guidance.region_size = 112
    c.train.label_balance = 0.0  # which labels of one class can have
    c.checkpoint.metric = "auroc_macro"
    return c

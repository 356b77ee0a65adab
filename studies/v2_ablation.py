"""What each part of DiffMIC-v2 adds.

    diffmic study studies/v2_ablation.py:smoke --workdir=runs/v2-smoke
    diffmic study studies/v2_ablation.py:busi --workdir=runs/v2-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/v2_ablation.py:full --workdir=runs/v2 --set=data.root=DIR

`full` is the paper's setting (PMG2000), where it has .879, .906, .915, .917, .913, .927 and .935
accuracy for the rows other than `guidance`. The guidance is trained once for each seed, and the
rows below start with it. The paper does not describe how the denoiser is conditioned in the rows
between `diffusion` and `map`; here it sees a label vector (docs/recipes.md).
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings

GUIDANCE = {
    "guidance.backbone": "resnet18",
    "guidance.crop_channels": "first",
    "guidance.loss": "branches",
    "guidance.optimizer": "adam",
    "train.batch_size": 64,
}
GUIDANCE_EPOCHS = {"smoke": 9, "busi": 35, "ham10000": 15, "full": 100}
NO_CONDITION = {"denoiser.conditioning": "none", "sampling.initial": "mean"}
NO_REGIONS = {"denoiser.local_encoder": ""}


def get_study(variant: str = "full") -> Study:
    """The rows of the v2 paper's ablation on one data set."""
    config, changes, seeds = settings.get(variant, full="configs/pmg2000.py")
    v2 = f"{config}:v2"
    trained = {"guidance.checkpoint": "{guidance}", "guidance.warmup_epochs": 0}
    if variant != "full":
        # A ViT from random weights learns nothing in so short a time.
        trained |= {"denoiser.encoder": "resnet18"}
    rows = (
        Row("basic", f"{config}:classifier"),
        Row(
            "guidance",
            f"{config}:gmic",
            GUIDANCE | {"guidance.warmup_epochs": 0, "train.epochs": GUIDANCE_EPOCHS[variant]},
        ),
        Row("diffusion", v2, trained | NO_CONDITION | NO_REGIONS),
        Row("global", v2, trained | NO_REGIONS | {"denoiser.conditioning": "global"}),
        Row("local", v2, trained | NO_REGIONS | {"denoiser.conditioning": "local"}),
        Row("features", v2, trained | NO_CONDITION),
        Row("map", v2, trained | NO_REGIONS),
        Row("all", v2, trained),
    )
    return Study(f"DiffMIC-v2, ablation, {variant}", rows, seeds, changes)

"""Every recipe on one data set, at the same budget, and the guidance alone.

    diffmic study studies/recipes.py:smoke --workdir=runs/recipes-smoke
    diffmic study studies/recipes.py:busi --workdir=runs/recipes-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/recipes.py:ham10000 --workdir=runs/recipes-ham10000 \
        --set=data.root=DIR
    diffmic study studies/recipes.py:full --workdir=runs/recipes --set=data.root=DIR

`v2` starts with the guidance of the `v1` run, so that both have the same guidance predictions.
`samples` are the checkpoints of `v1` with the mean of eight samples. With the
authors' split (`ham10000`), test images whose lesion is in training are evaluated separately too.
`full` is HAM10000, lesions kept together, with the published sizes.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings
from studies.table2 import C1, C2

V2 = {
    "guidance.checkpoint": "{v1}",
    "guidance.warmup_epochs": 0,
    "guidance.crop_channels": "all",
    "denoiser.encoder": "resnet18",
    "denoiser.pretrained": "",
}
SAME_GUIDANCE = {"guidance.backbone": "resnet50"}
"""The trunk of `v1`, which `v2` of the `full` variant has to share."""


def get_study(variant: str = "full") -> Study:
    """All recipes on one data set."""
    config, changes, seeds = settings.get(variant, full="configs/ham10000.py")
    v2 = V2 | SAME_GUIDANCE if variant == "full" else V2
    rows = (
        Row("guidance", of="v1", guidance=True),
        Row("basic", f"{config}:classifier"),
        Row("C1", f"{config}:v1", C1),
        Row("C2", f"{config}:v1", C2),
        Row("v1", f"{config}:v1"),
        Row("samples", of="v1", sampling={"num_samples": 8}),
        Row("v1_public", f"{config}:v1_public"),
        Row("v2", f"{config}:v2", v2),
    )
    return Study(f"DiffMIC, all recipes, {variant}", rows, seeds, changes)

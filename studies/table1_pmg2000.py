"""Table 1 (a) of the paper: classifiers without diffusion, and DiffMIC, on placental grades.

    diffmic study studies/table1_pmg2000.py:smoke --workdir=runs/table1a-smoke
    diffmic study studies/table1_pmg2000.py:full --workdir=runs/table1a \
        --set=data.root=DIR

`full` has the published sizes; the paper has .879 (ResNet), .886 (ViT), .893 (Swin), .907 (PVT),
.900 (GMIC) and .931 (DiffMIC) accuracy. The transformers start from random weights here, with which
they are no match for a ResNet; the paper does not say what theirs start from. `busi` and `ham10000`
are the same rows on other images, small; `smoke` has one seed, 32 px, a ViT-S and three epochs,
since transformers are slow on a CPU.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings

SMOKE = {"data.image_size": 32, "guidance.warmup_epochs": 1, "train.epochs": 2}


def get_study(variant: str = "full") -> Study:
    """Plain classifiers, the guidance by itself (GMIC) and v1 on one data set."""
    config, changes, seeds = settings.get(variant, full="configs/pmg2000.py")
    vit = "vit_b16"
    if variant == "smoke":
        changes, seeds, vit = changes | SMOKE, (0,), "vit_s16"
    rows = (
        *(
            Row(name, f"{config}:classifier", {"guidance.backbone": name})
            for name in ("resnet18", "resnet50", vit, "swin_t", "pvt_v2_b2")
        ),
        Row("gmic", f"{config}:gmic"),
        Row("v1", f"{config}:v1"),
    )
    return Study(f"DiffMIC, classifiers (Table 1a), {variant}", rows, seeds, changes)

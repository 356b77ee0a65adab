"""What each part of DiffMIC adds: the ablation of the paper's Table 2.

    diffmic study studies/table2.py:smoke --workdir=runs/table2-smoke
    diffmic study studies/table2.py:busi --workdir=runs/table2-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/table2.py:full --workdir=runs/table2 --set=data.root=DIR

`basic` is a ResNet18, `C1` diffusion without guidance, `C2` guidance without MMD. `full` is the
paper's setting (PMG2000, 224 px, 1,000 epochs), where it has .879, .906, .920 and .931 accuracy.
`smoke` is the embedded phantom with small networks and few epochs, half an hour on two CPU cores:
it tests that everything runs, and its numbers have no other meaning.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings

C1 = {
    "denoiser.conditioning": "none",
    "guidance.network": "classifier",  # not used: the smallest one
    "guidance.backbone": "resnet18",
    "guidance.warmup_epochs": 0,
    "guidance.frozen": True,
}
C2 = {"train.mmd_weight": 0.0}


def get_study(variant: str = "full") -> Study:
    """The rows of Table 2 on one data set."""
    config, changes, seeds = settings.get(variant, full="configs/pmg2000.py")
    rows = (
        Row("basic", f"{config}:classifier"),
        Row("C1", f"{config}:v1", C1),
        Row("C2", f"{config}:v1", C2),
        Row("full", f"{config}:v1"),
        Row("guidance", of="full", guidance=True),
    )
    return Study(f"DiffMIC, ablation (Table 2), {variant}", rows, seeds, changes)

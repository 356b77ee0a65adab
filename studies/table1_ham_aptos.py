"""Table 1 (b) of the paper: losses for skewed classes, and DiffMIC.

    diffmic study studies/table1_ham_aptos.py:smoke --workdir=runs/table1b-smoke
    diffmic study studies/table1_ham_aptos.py:ham10000 --workdir=runs/table1b-small \
        --set=data.root=DIR
    diffmic study studies/table1_ham_aptos.py:full --workdir=runs/table1b-ham \
        --set=data.root=DIR --set=data.protocol=authors
    diffmic study studies/table1_ham_aptos.py:aptos --workdir=runs/table1b-aptos \
        --set=data.root=DIR --set=data.protocol=authors

A ResNet18 (`full` and `aptos`: a ResNet50, with the published sizes) is trained with each loss. The
paper has .857 / .734 (accuracy / macro-F1) for LDAM, .818 / .660 for OHEM, .887 / .763 for ProCo
(of which `prototype` has the idea) and .906 / .816 for DiffMIC on HAM10000, and .813 / .620,
.813 / .631, .837 / .674 and .858 / .716 on APTOS2019.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings

LOSSES = {
    "cross-entropy": {},
    "focal": {"guidance.loss": "focal"},
    "ohem": {"guidance.loss": "ohem"},
    "balanced": {"guidance.class_weights": "balanced"},
    "logit-adjusted": {"guidance.loss": "logit_adjusted"},
    "ldam-drw": {"guidance.loss": "ldam", "guidance.class_weights": "deferred"},
    "prototype": {"guidance.loss": "prototype"},
}


def get_study(variant: str = "full") -> Study:
    """One classifier with several losses, and v1, on one data set."""
    if variant == "aptos":
        config, changes, seeds = settings.get("full", full="configs/aptos2019.py")
    else:
        config, changes, seeds = settings.get(variant, full="configs/ham10000.py")
    trunk = {"guidance.backbone": "resnet50"} if variant in ("full", "aptos") else {}
    rows = (
        *(Row(name, f"{config}:classifier", trunk | loss) for name, loss in LOSSES.items()),
        Row("v1", f"{config}:v1"),
    )
    return Study(f"DiffMIC, skewed classes (Table 1b), {variant}", rows, seeds, changes)

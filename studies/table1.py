"""Baselines of the paper's Table 1 that have no diffusion, and DiffMIC.

    python -m diffmic_jax study studies/table1.py:smoke --workdir=runs/table1-smoke
    python -m diffmic_jax study studies/table1.py:busi --workdir=runs/table1-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    python -m diffmic_jax study studies/table1.py:ham10000 --workdir=runs/table1-ham10000 \
        --set=data.root=DIR
    python -m diffmic_jax study studies/table1.py:full --workdir=runs/table1 --set=data.root=DIR

The transformers start from random weights here, the paper's from ImageNet's: without these they are
no match for a ResNet. A ResNet18 is trained with each loss for skewed classes; `gmic` is the
guidance by itself. `full` is PMG2000 with the published sizes.
"""

from diffmic_jax.evaluation.study import Row, Study
from studies import settings

LOSSES = {
    "focal": {"guidance.loss": "focal"},
    "ohem": {"guidance.loss": "ohem"},
    "balanced": {"guidance.class_weights": "balanced"},
    "logit-adjusted": {"guidance.loss": "logit_adjusted"},
    "ldam-drw": {"guidance.loss": "ldam", "guidance.class_weights": "deferred"},
}


def get_study(variant: str = "full") -> Study:
    """Classifiers with several losses, the guidance, and v1 on one data set."""
    config, changes, seeds = settings.get(variant, full="configs/pmg2000.py")
    classifier = f"{config}:classifier"
    rows = (
        Row("resnet18", classifier),
        Row("resnet50", classifier, {"guidance.backbone": "resnet50"}),
        *(
            Row(name, classifier, {"guidance.backbone": name, "guidance.pretrained": ""})
            for name in ("vit_b16", "swin_t", "pvt_v2_b2")
        ),
        *(Row(f"resnet18-{name}", classifier, loss) for name, loss in LOSSES.items()),
        Row("gmic", f"{config}:gmic"),
        Row("v1", f"{config}:v1"),
    )
    return Study(f"DiffMIC, baselines (Table 1), {variant}", rows, seeds, changes)

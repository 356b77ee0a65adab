"""`diffmic_plus` beside its own guidance, v1 and v2, and what each of its ideas adds.

    python -m diffmic_jax study studies/plus.py:smoke --workdir=runs/plus-smoke
    python -m diffmic_jax study studies/plus.py:busi --workdir=runs/plus-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    python -m diffmic_jax study studies/plus.py:ham10000 --workdir=runs/plus-ham10000 \
        --set=data.root=DIR
    python -m diffmic_jax study studies/plus.py:full --workdir=runs/plus --set=data.root=DIR

All stand on the guidance that the run of `v1` of the same seed ended with. HAM10000 is cut by
lesion. Rows that begin with `no-` lack one idea, those with `with-` have one more;
`conditional`, `unconditional` and those after them are the checkpoints of `diffmic_plus`, evaluated
with another sampling.
"""

from typing import Any

from diffmic_jax.study.study import Row, Study
from studies import settings
from studies.recipes import SAME_GUIDANCE, V2

NARROW = {"guidance.width": 32, "denoiser.width": 32, "denoiser.feature_dim": 256}
BUSI = settings.BUSI | NARROW
HAM10000 = (
    settings.HAM10000
    | NARROW
    | {"data.image_size": 32, "guidance.region_size": 16, "train.epochs": 9}
)
FIVE = (0, 1, 2, 3, 4)
VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "smoke": ("configs/quickstart.py", settings.SMOKE, (0,)),
    "busi": ("configs/busi.py", BUSI, FIVE),
    "ham10000": ("configs/ham10000.py", HAM10000, settings.THREE),
    "full": ("configs/ham10000.py", {}, settings.THREE),
}
ON_THE_GUESS = {
    "guidance.checkpoint": "{v1}",
    "guidance.warmup_epochs": 0,
    "denoiser.pretrained": "guidance",
}
CHAIN: dict[str, Any] = {"sampler": "ancestral", "num_steps": 10, "num_samples": 8}
TRAINED: dict[str, dict[str, Any]] = {
    "no-dropout": {"denoiser.guidance_dropout": 0.0, "sampling.withhold": 0.0},
    "no-trunk": {"denoiser.pretrained": "", "train.learning_rate": 1e-3},
    "no-unit-gates": {"denoiser.gates": "uniform"},
    "no-balance": {"train.label_balance": 0.0},
    "with-features": {"denoiser.guidance_features": True},
    "with-ema": {"train.ema": True},
}
READ: dict[str, dict[str, Any]] = {
    "conditional": {"guess_weight": 0.0, "withhold": 0.0},
    "unconditional": {"guess_weight": 0.0, "withhold": 1.0},
    "without-guidance": {"guess_weight": 0.0},
    "chain": CHAIN,
    "chain-conditional": CHAIN | {"guess_weight": 0.0, "withhold": 0.0},
    "chain-vote": CHAIN | {"readout": "vote"},
    "chain-pairs": CHAIN | {"antithetic": True},
}


def get_study(variant: str = "full") -> Study:
    """The recipes on one guidance, and the ablation of ours."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    config, changes, seeds = VARIANTS[variant]
    full = variant == "full"
    ours = ON_THE_GUESS | {"denoiser.encoder": "resnet50" if full else "resnet18"}
    rows = (
        Row("guidance", of="v1", guidance=True),
        Row("v1", f"{config}:v1"),
        Row("v1-samples", of="v1", sampling={"num_samples": 8}),
        Row("v2", f"{config}:v2", V2 | SAME_GUIDANCE if full else V2),
        Row("plus", f"{config}:diffmic_plus", ours),
        *(Row(name, of="plus", sampling=changed) for name, changed in READ.items()),
        *(Row(name, f"{config}:diffmic_plus", ours | each) for name, each in TRAINED.items()),
    )
    return Study(f"diffmic_plus, {variant}", rows, seeds, changes)

"""`plus` beside its own guidance, v1 and v2, and what each of its ideas adds.

    diffmic study studies/plus.py:smoke --workdir=runs/plus-smoke
    diffmic study studies/plus.py:busi --workdir=runs/plus-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/plus.py:ham10000 --workdir=runs/plus-ham10000 \
        --set=data.root=DIR
    diffmic study studies/plus.py:full --workdir=runs/plus --set=data.root=DIR

All start with the guidance of the `v1` run of the same seed. HAM10000 is cut by lesion. Rows that
begin with `no-` lack one idea, `with-ema` has one more; `conditional` and the other rows of
`SAMPLED` are the checkpoints of `plus`, evaluated with another sampling.
"""

from typing import Any

from diffmic_jax.study.definition import Row, Study
from studies import settings
from studies.recipes import SAME_GUIDANCE, V2

NARROW = {"model.width": 32, "denoiser.feature_dim": 256}
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
AS_OF_V1 = {
    "data.crop": 1.0,
    "guidance.network": "dcg",
    "guidance.optimizer": "amsgrad",
    "guidance.learning_rate": 2e-4,
    "guidance.rate": "constant",
    "guidance.weight_decay": 0.0,
    "guidance.label_smoothing": 0.0,
    "train.warmup_fraction": 0.04,
    "train.ema": False,
    "sampling.flips": "none",
}
"""What the recipe has of its own beside what this study is about."""
SHARED_GUIDANCE = AS_OF_V1 | {
    "guidance.checkpoint": "{v1}",
    "guidance.warmup_epochs": 0,
    "denoiser.pretrained": "guidance",
    "train.learning_rate": 3e-4,
    "train.label_balance": 0.3,
}
CHAIN: dict[str, Any] = {"sampler": "ancestral", "num_steps": 10, "num_samples": 8}
TRAINED: dict[str, dict[str, Any]] = {
    "no-dropout": {"denoiser.conditioning_dropout": 0.0, "sampling.unconditional": 0.0},
    "no-trunk": {"denoiser.pretrained": "", "train.learning_rate": 1e-3},
    "no-unit-gates": {"denoiser.gates": "uniform"},
    "no-balance": {"train.label_balance": 0.0},
    "with-ema": {"train.ema": True},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "conditional": {"ensemble_weight": 0.0, "unconditional": 0.0},
    "unconditional": {"ensemble_weight": 0.0, "unconditional": 1.0},
    "without-guidance": {"ensemble_weight": 0.0},
    "chain": CHAIN,
    "chain-conditional": CHAIN | {"ensemble_weight": 0.0, "unconditional": 0.0},
}


def get_study(variant: str = "full") -> Study:
    """The recipes on one guidance, and the ablation of ours."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    config, changes, seeds = VARIANTS[variant]
    full = variant == "full"
    trunk = "resnet50" if full else "resnet18"
    width = {"denoiser.feature_dim": 6144} if full else {}
    ours = SHARED_GUIDANCE | {"guidance.backbone": trunk, "denoiser.encoder": trunk} | width
    rows = (
        Row("guidance", of="v1", guidance=True),
        Row("v1", f"{config}:v1"),
        Row("v1-samples", of="v1", sampling={"num_samples": 8}),
        Row("v2", f"{config}:v2", V2 | SAME_GUIDANCE if full else V2),
        Row("plus", f"{config}:plus", ours),
        *(Row(name, of="plus", sampling=changed) for name, changed in SAMPLED.items()),
        *(Row(name, f"{config}:plus", ours | each) for name, each in TRAINED.items()),
    )
    return Study(f"plus, {variant}", rows, seeds, changes)

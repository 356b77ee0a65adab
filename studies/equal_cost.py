"""Diffusions over the label beside what costs the same, all on the features of one frozen trunk.

    diffmic study studies/equal_cost.py:smoke --workdir=runs/equal-smoke
    diffmic study studies/equal_cost.py:ham10000 --workdir=runs/equal-ham10000 --set=data.root=DIR
    diffmic study studies/equal_cost.py:busi --workdir=runs/equal-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/equal_cost.py:eyepacs --workdir=runs/equal-eyepacs \
        --set=data.root=DIR --set=data.labels=labels.csv --set=data.groups=groups.csv
    diffmic study studies/equal_cost.py:chestxray14 --workdir=runs/equal-chestxray14 \
        --set=data.root=DIR
    diffmic study studies/equal_cost.py:retinamnist --workdir=runs/equal-retinamnist \
        --set=data.root=DIR
    diffmic study studies/equal_cost.py:phantom --workdir=runs/equal-phantom

EfficientNet-Lite0 with ImageNet weights does not learn; the features of eight views of an image
are computed once. `guidance` is a linear layer, `mlp` a head of the denoiser's size, `-x2` and
`-x3` are means of that many trainings; all is compared with `guidance-x2`, which costs no more
than a guidance and a diffusion. Every diffusion starts with the finished guidance of the
same seed, which then stays as it is. The checkpoint is the one of the lowest Brier score on
validation.
"""

from typing import Any

from diffmic_jax.study.definition import Row, Study
from studies import settings, strong

FEATURES = {
    "data.crop": 0.7,
    "guidance.network": "classifier",
    "guidance.backbone": "efficientnet_lite0",
    "guidance.pretrained": "auto",
    "guidance.tune": "head",
    "guidance.views": 8,
    "guidance.label_smoothing": 0.0,
    "guidance.drop_path": 0.0,
    "guidance.layer_decay": 1.0,
    "guidance.loss": "fused",
    "denoiser.feature_dim": 512,
    "sampling.flips": "horizontal",
    "checkpoint.metric": "brier",
    "train.batch_size": 32,
}
LINEAR: dict[str, Any] = {"guidance.learning_rate": 2e-3, "train.epochs": 60}
MLP: dict[str, Any] = {"guidance.hidden": (512, 512, 512), "guidance.dropout": 0.2}
DENOISER: dict[str, Any] = {
    "guidance.warmup_epochs": 0,
    "guidance.frozen": True,
    "denoiser.encoder": "guidance",
    "denoiser.pretrained": "",
    "denoiser.local_encoder": "",
}
ON: dict[str, dict[str, Any]] = {
    "guidance": {"guidance.checkpoint": "{guidance}"},
    "mlp": MLP | {"guidance.checkpoint": "{mlp}"},
}
"""The finished guidance that a denoiser starts with."""
OF_LABEL: dict[str, Any] = {
    "denoiser.gates": "ones",
    "denoiser.conditioning": "fused",
    "train.epochs": 60,
    "train.mmd_weight": 0.0,
    "train.timestep_weight": "label",
    "sampling.num_steps": 10,
    "sampling.num_samples": 8,
    "sampling.start_std": "matched",
    "sampling.readout": "chain",
}
"""A denoiser of the label, whose estimates are averaged along ten steps."""
ONE_STEP: dict[str, Any] = {
    "denoiser.conditioning": "fused",
    "denoiser.conditioning_dropout": 0.0,
    "train.epochs": 60,
    "train.learning_rate": 1e-3,
    "train.label_balance": 0.0,
    "sampling.num_samples": 1,
    "sampling.unconditional": 0.0,
}
"""The posterior given the guidance prediction, read in one step."""
PHANTOM: dict[str, Any] = {"data.name": "phantom", "data.image_size": 64, "data.rotation": 15.0}
EVERY = {"ham10000": 4000}
"""Steps between checkpoints; elsewhere 500."""
FIVE: tuple[int, ...] = (0, 1, 2, 3, 4)


def get_study(variant: str = "ham10000") -> Study:
    """Guidance, ensembles, heads and diffusions on the features of one data set.

    Raises:
      ValueError: for another variant.
    """
    known = {**strong.VARIANTS, "phantom": ("configs/default.py:", PHANTOM, None)}
    if variant not in known:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(known)}")
    config, changes, _ = known[variant]
    changes = {**FEATURES, "checkpoint.every_steps": EVERY.get(variant, 500), **changes}
    seeds: tuple[int, ...] = settings.THREE if variant == "ham10000" else FIVE
    thousand = {"train.epochs": 1000}
    if variant == "smoke":
        seeds = (0,)
        changes |= {"train.max_steps": 20, "guidance.views": 2}
    rows = (
        *_trained_often("guidance", f"{config}strong", LINEAR),
        *_trained_often("mlp", f"{config}strong", LINEAR | MLP),
        Row("v1-35", f"{config}v1", DENOISER | ON["guidance"] | {"train.epochs": 35}),
        Row("v1", f"{config}v1", DENOISER | ON["guidance"] | thousand),
        Row("v1-matched", of="v1", sampling={"start_std": "matched"}),
        Row("v1-matched-8", of="v1", sampling={"start_std": "matched", "num_samples": 8}),
        Row("v2", f"{config}v2", DENOISER | ON["guidance"] | {"train.epochs": 60}),
        *(
            Row(name, f"{config}v1", DENOISER | ON["guidance"] | OF_LABEL | own)
            for name, own in (
                ("y0", {"denoiser.parameterization": "y0"}),
                ("v", {"denoiser.parameterization": "v"}),
                ("edm", {"denoiser.parameterization": "edm", "train.timestep_weight": "edm"}),
            )
        ),
        Row("y0-last", of="y0", sampling={"readout": "clip"}),
        Row("plus", f"{config}plus", DENOISER | ON["guidance"]),
        Row("posterior", f"{config}plus", DENOISER | ON["guidance"] | ONE_STEP),
        Row("posterior-mlp", f"{config}plus", DENOISER | ON["mlp"] | ONE_STEP),
        Row("posterior-mlp-half", of="posterior-mlp", sampling={"ensemble_weight": 0.5}),
    )
    return Study(f"Equal cost, {variant}", rows, seeds, changes, against="guidance-x2")


def _trained_often(name: str, config: str, changes: dict[str, Any]) -> tuple[Row, ...]:
    """Three trainings and the means of two and three of them."""
    members = (name, f"{name}-b", f"{name}-c")
    return (
        *(Row(each, config, changes, seed_shift=100 * i) for i, each in enumerate(members)),
        Row(f"{name}-x2", members=members[:2]),
        Row(f"{name}-x3", members=members),
    )

"""Fewer reverse steps, same prediction? One training of v1 and of v2, evaluated with many samplers.

    diffmic study studies/steps.py:smoke --workdir=runs/steps-smoke
    diffmic study studies/steps.py:busi --workdir=runs/steps-busi \
        --set=data.root=DIR --set=data.labels=split.csv

The mean of eight samples everywhere. `rederived` is DDIM whose noise follows the clipped label.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings
from studies.recipes import SAME_GUIDANCE, V2

STEPS = (5, 10, 20, 50, 250)


def get_study(variant: str = "full") -> Study:
    """Samplers of v1 and v2 at several numbers of steps."""
    config, changes, seeds = settings.get(variant, full="configs/ham10000.py")
    v2 = V2 | SAME_GUIDANCE if variant == "full" else V2
    eight = {"sampling.num_samples": 8}
    ancestral = {"sampler": "ancestral", "start": "leading"}
    rederived = {"sampler": "ddim", "start": "leading", "rederive_eps": True}
    rows = [
        Row("v1", f"{config}:v1", eight),
        Row("v2", f"{config}:v2", v2 | eight),
        *(Row(f"v1-ancestral-{n}", of="v1", sampling=ancestral | {"num_steps": n}) for n in STEPS),
        *(Row(f"v2-rederived-{n}", of="v2", sampling=rederived | {"num_steps": n}) for n in STEPS),
    ]
    return Study(f"DiffMIC, reverse steps, {variant}", tuple(rows), seeds, changes)

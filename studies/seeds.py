"""How much a result varies with the seed: v1 and its guidance, ten trainings.

    diffmic study studies/seeds.py:smoke --workdir=runs/seeds-smoke
    diffmic study studies/seeds.py:busi --workdir=runs/seeds-busi \
        --set=data.root=DIR --set=data.labels=split.csv
    diffmic study studies/seeds.py:full --workdir=runs/seeds --set=data.root=DIR

`full` is HAM10000 with the published sizes. The split stays the same; `--set=data.split_seed=1`
gives another one.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings


def get_study(variant: str = "full") -> Study:
    """Ten seeds of v1; three in the smoke test."""
    config, changes, three = settings.get(variant, full="configs/ham10000.py")
    rows = (Row("guidance", of="v1", guidance=True), Row("v1", f"{config}:v1"))
    seeds = three if variant == "smoke" else tuple(range(10))
    return Study(f"DiffMIC, seeds, {variant}", rows, seeds, changes)

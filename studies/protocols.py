"""How much a result depends on the split: HAM10000 by lesion, at random, by the authors' lists.

    diffmic study studies/protocols.py:ham10000 --workdir=runs/protocols-small \
        --set=data.root=DIR
    diffmic study studies/protocols.py:full --workdir=runs/protocols \
        --set=data.root=DIR
    diffmic study studies/protocols.py:smoke --workdir=runs/protocols-smoke

At random and in the authors' lists, a third of the test images show a lesion of the training part;
these are evaluated separately. The rows have different test images, so their differences
are no paired comparison. The phantom (`smoke`) has no groups: there it is only a test.
"""

from diffmic_jax.study.definition import Row, Study
from studies import settings

PROTOCOLS = {"smoke": ("given", "random"), "": ("grouped", "random", "authors")}


def get_study(variant: str = "full") -> Study:
    """A ResNet18 and v1 under every protocol."""
    if variant == "busi":
        raise ValueError("BUSI has neither groups nor the authors' lists; give ham10000")
    config, changes, seeds = settings.get(variant, full="configs/ham10000.py")
    rows = tuple(
        Row(f"{name}-{protocol}", f"{config}:{recipe}", {"data.protocol": protocol})
        for protocol in PROTOCOLS.get(variant, PROTOCOLS[""])
        for name, recipe in (("basic", "classifier"), ("v1", "v1"))
    )
    return Study(f"DiffMIC, protocols, {variant}", rows, seeds, changes, against=None)

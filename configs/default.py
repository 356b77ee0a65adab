"""Your own images, one folder per class or with a CSV of labels: docs/data.md.

    python main.py --config=configs/default.py --config.data.root=DIR
    python main.py --config=configs/default.py:v2 --config.data.root=DIR

A recipe follows after a colon: `v1` (DiffMIC as the paper has it), `v1_public` (what the authors'
code computes), `v2` (DiffMIC-v2), `plus` (ours); `strong`, `classifier` or `gmic` (no
diffusion).
Every field and its meaning: docs/config.md.
"""

from ml_collections import ConfigDict

from diffmic_jax import recipes


def get_config(recipe: str = "v1") -> ConfigDict:
    """A recipe as it is."""
    return recipes.config_dict(recipe)

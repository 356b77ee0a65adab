"""What of a trunk is where, and what of it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.method.tuning import make_tuning
from diffmic_jax.nn import trunks
from diffmic_jax.nn.baselines.classifier import PlainClassifier
from diffmic_jax.nn.entry import Trunk
from tests.tiny import make_config


def classifier(trunk: nn.Module) -> PlainClassifier:
    return PlainClassifier(num_classes=2, global_trunk=trunk)


@pytest.mark.parametrize("name", trunks.names())
def test_every_parameter_of_a_trunk_is_in_one_block(name):
    trunk: Any = trunks.build(name, width=8)
    if not isinstance(trunk, Trunk):
        pytest.skip(f"{name} does not name its blocks")
    side = max(2 * trunks.entry(name).multiple, 32)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, train=False), image)
    listed = [each for block in trunk.blocks() for each in block]
    assert len(set(listed)) == len(listed)
    assert set(shapes["params"]) <= set(listed)


def test_the_rates_of_blocks_that_nobody_knows_are_refused():
    config = make_config(Path(), "classifier", guidance__layer_decay=0.8)
    with pytest.raises(InputError, match="config.guidance.layer_decay=0.8 needs a trunk whose bl"):
        make_tuning(config, classifier(nn.Dense(3)))
    make_tuning(config, classifier(trunks.build("tiny")))
    make_tuning(config.changed({"guidance.layer_decay": 1.0}), classifier(nn.Dense(3)))

from __future__ import annotations

from diffmic_jax.training.workdir import config_sha256
from tests import tiny


def test_the_hash_depends_on_the_configuration_but_not_on_places(tiny_data):
    here = config_sha256(tiny.make_config(tiny_data))
    moved = config_sha256(tiny.make_config(tiny_data / "elsewhere"))
    other = config_sha256(tiny.make_config(tiny_data, train__epochs=3))
    assert here == moved
    assert here != other

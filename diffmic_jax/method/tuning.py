"""Which parameters of the guidance learn, and at which share of its rate.

A trunk's parameters lie in blocks, from the input to the output (`nn.entry.Trunk`); what is in no
trunk is a head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.nn.entry import Trunk
from diffmic_jax.types import Variables

Blocks = tuple[tuple[str, ...], ...]
"""Names of a trunk's parameters, as `Trunk.blocks` gives them."""
TRUNKS = ("global_trunk", "local_trunk")
"""Names of the guidance's trunks, as modules and in its parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a network with pretrained trunks is tuned."""

    layer_decay: float = 1.0
    """Factor of the rate from each block of a trunk to the one before."""
    trunks: Mapping[str, Blocks] = dataclasses.field(default_factory=dict)
    """Name of each trunk in the parameters -> its blocks."""

    def rates(self, params: Variables) -> Variables:
        """For each parameter its share of the rate.

        Block i of the n of a trunk has `layer_decay` to the power n - i, and the heads have 1.
        """
        return {
            name: self._of_trunk(name, tree) if name in self.trunks else _filled(tree, 1.0)
            for name, tree in params.items()
        }

    def _of_trunk(self, trunk: str, params: Variables) -> Variables:
        blocks = _present(self.trunks[trunk], params)
        depth = {name: len(blocks) - i for i, block in enumerate(blocks) for name in block}
        return {
            name: _filled(tree, self.layer_decay ** depth[name]) for name, tree in params.items()
        }


def make_tuning(config: Config, guidance: nn.Module) -> Tuning:
    """How a guidance network is tuned.

    Raises:
      InputError: that depends on the blocks of a trunk that does not name them.
    """
    own, trunks = config.guidance, _blocks_of(guidance)
    if own.layer_decay != 1 and not all(trunks.values()):
        raise InputError(
            f"config.guidance.layer_decay={own.layer_decay:g} needs a trunk whose blocks are known,"
            f" and those of {own.backbone} are not; give 1"
        )
    return Tuning(layer_decay=own.layer_decay, trunks=trunks)


def _blocks_of(guidance: nn.Module) -> dict[str, Blocks]:
    """The blocks of a guidance network's trunks; empty for a trunk that does not name them."""
    trunks = {name: getattr(guidance, name, None) for name in TRUNKS}
    return {
        name: trunk.blocks() if isinstance(trunk, Trunk) else ()
        for name, trunk in trunks.items()
        if trunk is not None
    }


def is_decayed(params: Variables) -> Any:
    """For each parameter, whether weight decay applies: to the kernels of layers alone.

    Not to biases, norms, tokens, positions, and other factors, whose size has another meaning.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _present(blocks: Blocks, tree: Variables) -> Blocks:
    """The blocks without names that a trunk has no parameters for."""
    kept = (tuple(name for name in block if name in tree) for block in blocks)
    return tuple(block for block in kept if block)


def _filled(tree: Variables, value: float) -> Variables:
    filled: Variables = jax.tree.map(lambda _: value, tree)
    return filled

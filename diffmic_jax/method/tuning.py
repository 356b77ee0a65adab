"""Which parameters of the guidance learn, and at which share of its rate.

A trunk's parameters lie in blocks, from the input to the output (`nn.entry.Trunk`); what is in no
trunk is a head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

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

    tune: Literal["full", "last_blocks", "head"] = "full"
    """What learns of the trunks: all, the last quarter of their blocks, or nothing."""
    layer_decay: float = 1.0
    """Factor of the rate from each block of a trunk to the one before."""
    trunks: Mapping[str, Blocks] = dataclasses.field(default_factory=dict)
    """Name of each trunk in the parameters -> its blocks."""

    @property
    def keeps_statistics(self) -> bool:
        """Whether the trunks normalise by their running statistics, in training as well.

        What does not learn should not change: by the statistics of its batch, an image would have
        other features in every step, and none of them those that evaluation sees. Small batches
        also have poor statistics. That is how networks with frozen parts are tuned.
        """
        return self.tune != "full"

    def learning(self, params: Variables) -> Variables:
        """The part of the guidance's parameters that learns."""
        if self.tune == "full":
            return params
        parts = {
            name: {key: tree[key] for key in self._last(name, tree)}
            if name in self.trunks
            else tree
            for name, tree in params.items()
        }
        return {name: part for name, part in parts.items() if part}

    def _last(self, trunk: str, params: Variables) -> tuple[str, ...]:
        """Names of the parameters of a trunk that learn, where not all of them do."""
        if self.tune == "head":
            return ()
        blocks = _present(self.trunks[trunk], params)
        return tuple(name for block in blocks[-max(1, len(blocks) // 4) :] for name in block)

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
    for asked, field, fix in (
        (own.layer_decay != 1, f"layer_decay={own.layer_decay:g}", "1"),
        (own.tune == "last_blocks", "tune=last_blocks", "full or head"),
    ):
        if asked and not all(trunks.values()):
            raise InputError(
                f"config.guidance.{field} needs a trunk whose blocks are known, and those of "
                f"{own.backbone} are not; give {fix}"
            )
    return Tuning(tune=own.tune, layer_decay=own.layer_decay, trunks=trunks)


def _blocks_of(guidance: nn.Module) -> dict[str, Blocks]:
    """The blocks of a guidance network's trunks; empty for a trunk that does not name them."""
    trunks = {name: getattr(guidance, name, None) for name in TRUNKS}
    return {
        name: trunk.blocks() if isinstance(trunk, Trunk) else ()
        for name, trunk in trunks.items()
        if trunk is not None
    }


def merged(tree: Variables, part: Variables) -> Variables:
    """The tree with the part's values in their places."""
    return tree | {
        name: merged(tree[name], new) if isinstance(new, dict) else new
        for name, new in part.items()
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

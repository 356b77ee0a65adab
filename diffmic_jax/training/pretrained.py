"""Trunks that start from published weights: of ImageNet classifiers, or of EfficientSAM."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load_classifier
from diffmic_jax.method.build import GUIDANCE, Recipe
from diffmic_jax.nn import trunks, weights
from diffmic_jax.training.state import TrainState, of_network
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

AUTO = "auto"
TRUNKS = {
    "guidance": ("backbone", ("global_trunk", "local_trunk")),
    "denoiser": ("encoder", ("encoder",)),
}
"""For each network the field that names its trunk, and the trunks."""


def with_pretrained(
    state: TrainState, recipe: Recipe, config: ml_collections.ConfigDict
) -> tuple[TrainState, dict[str, str]]:
    """A fresh state whose trunks have the weights that `config.*.pretrained` names.

    `auto` stands for those that the papers start from, where they fit the trunk and can be had.

    Returns:
      The state, and for each network where its trunks' weights come from.

    Raises:
      InputError: weights that are named cannot be had, or do not fit the trunk.
    """
    params, stats, origins = dict(state.params), dict(state.batch_stats), {}
    for network, (_, places) in TRUNKS.items():
        if network == "guidance" and config.guidance.checkpoint:
            origins[network] = config.guidance.checkpoint
            own = _guidance(Path(config.guidance.checkpoint), state)
            params[network], stats[network] = own["params"], own["batch_stats"]
            continue
        path, origins[network] = _weights(network, config)
        if path is None:
            continue
        params[network], stats[network] = dict(params[network]), dict(stats[network])
        for name in (each for each in places if each in params[network]):
            values = weights.trunk_variables(getattr(getattr(recipe, network), name), path)
            params[network][name] = _like(values["params"], params[network][name])
            if "batch_stats" in values:  # a ViT has none
                stats[network][name] = _like(values["batch_stats"], stats[network][name])
        log.info("%s starts with %s from %s", network, " and ".join(places), origins[network])
    average = jax.tree.map(jnp.copy, params) if state.ema_params else {}
    return state.replace(params=params, batch_stats=stats, ema_params=average), origins


def _guidance(workdir: Path, state: TrainState) -> Variables:
    """The guidance of another run's best checkpoint, for the place of this state's."""
    found = of_network(load_classifier(workdir).variables, "guidance")
    wanted = of_network(state.variables(), "guidance")
    shapes = (jax.tree.map(jnp.shape, tree) for tree in (found, wanted))
    if len({str(each) for each in shapes}) > 1:
        raise InputError(
            f"config.guidance.checkpoint={str(workdir)!r}: its guidance is another "
            "network or of other classes; give its config.guidance fields"
        )
    log.info("guidance starts as that of %s", workdir)
    return _like(found, wanted)


def _weights(network: str, config: ml_collections.ConfigDict) -> tuple[Path | None, str]:
    """The file of a network's pretrained weights and its name; None and `random` without one."""
    source, field = config[network].pretrained, f"config.{network}.pretrained"
    if not config[network][TRUNKS[network][0]]:
        return None, "not there"
    if not source:
        log.info("%s starts from random weights, as %s='' asks", network, field)
        return None, "random"
    if network == "denoiser" and source == GUIDANCE:
        return None, "the guidance"  # once that has learned
    if source != AUTO:
        return weights.find(source, field), source
    try:
        source = _published(network, config)
        return weights.find(source, field), source
    except InputError as error:
        log.warning("%s starts from RANDOM weights, not from published ones. %s", network, error)
        return None, "random"


def _published(network: str, config: ml_collections.ConfigDict) -> str:
    """The hub's name of the published weights of a network's trunk."""
    options = config[network]
    name = options[TRUNKS[network][0]]
    return trunks.published(name, width=options.width, stem=options.stem)


def _like(values: Variables, there: Variables) -> Variables:
    """Values on the devices where others are."""
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), values, there)

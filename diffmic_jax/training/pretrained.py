"""What the networks of a run start from: published weights, another run's guidance, or neither."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.nn import trunks, weights
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

AUTO, GUIDANCE = "auto", "guidance"
"""Values of `pretrained`: the weights that the papers start from; the guidance's trunk."""
TRUNKS = {"guidance": ("global_trunk", "local_trunk"), "denoiser": ("encoder",)}
"""The trunks of each network that take published weights."""


def with_pretrained(
    state: TrainState, method: Method, config: Config, guidance: Variables | None = None
) -> tuple[TrainState, dict[str, str]]:
    """A fresh state whose trunks have the weights that `config.*.pretrained` names.

    `auto` stands for those that the papers start from, where they fit the trunk and can be had.

    Args:
      state: of the method, on its devices.
      method: the networks.
      config: what it was built from.
      guidance: variables of the run that `config.guidance.checkpoint` names.

    Returns:
      The state, and for each network where its trunks' weights come from.

    Raises:
      InputError: weights that are named cannot be had, or do not fit the trunk.
    """
    variables, origins = {}, {}
    for network in TRUNKS:
        own = of_network(state.variables(), network)
        if network == "guidance" and guidance is not None:
            origins[network] = config.guidance.checkpoint
            variables[network] = _of_run(guidance, own, origins[network])
        else:
            path, origins[network] = _weights(network, config)
            variables[network] = _with_trunks(own, method, network, path) if path else own
            if path:
                names = " and ".join(TRUNKS[network])
                log.info("%s starts with %s from %s", network, names, origins[network])
    params, stats = (
        {network: variables[network][kind] for network in TRUNKS}
        for kind in ("params", "batch_stats")
    )
    state = state.replace(params=params, batch_stats=stats)
    if state.ema_params:
        average, average_stats = jax.tree.map(jnp.copy, (params, stats))
        state = state.replace(ema_params=average, ema_batch_stats=average_stats)
    return state, origins


def _of_run(found: Variables, own: Variables, workdir: str) -> Variables:
    """The guidance of another run's best checkpoint, in the place of this state's."""
    found = of_network(found, "guidance")
    shapes = {str(jax.tree.map(jnp.shape, tree)) for tree in (found, own)}
    if len(shapes) > 1:
        raise InputError(
            f"config.guidance.checkpoint={workdir!r}: its guidance is another network or has "
            "other classes; give its config.guidance fields"
        )
    log.info("guidance starts as that of %s", workdir)
    return _placed(found, own)


def _with_trunks(own: Variables, method: Method, network: str, path: Path) -> Variables:
    """A network's variables, its trunks with the weights of a file."""
    new = {kind: dict(tree) for kind, tree in own.items()}
    for name in TRUNKS[network]:
        if name not in new["params"]:  # a plain classifier has no local trunk
            continue
        values = weights.trunk_variables(getattr(getattr(method, network), name), path)
        for kind in values:  # a ViT has no statistics
            new[kind][name] = _placed(values[kind], new[kind][name])
    return new


def _weights(network: str, config: Config) -> tuple[Path | None, str]:
    """The file of a network's pretrained weights and its name; None and `random` without one."""
    guidance, denoiser = config.guidance, config.denoiser
    name, source = {
        "guidance": (guidance.backbone, guidance.pretrained),
        "denoiser": (denoiser.encoder, denoiser.pretrained),
    }[network]
    field = f"config.{network}.pretrained"
    if not name:
        return None, "not there"
    if not source:
        log.info("%s starts from random weights, since %s=''", network, field)
        return None, "random"
    if network == "denoiser" and source == GUIDANCE:
        return None, "the guidance"  # once that has learned
    if source != AUTO:
        return weights.find(source, field), source
    try:
        source = trunks.published(name, width=config.model.width, stem=config.model.stem)
        return weights.find(source, field), source
    except InputError as error:
        log.warning("%s starts from RANDOM weights, not from published ones. %s", network, error)
        return None, "random"


def _placed(values: Variables, there: Variables) -> Variables:
    """Values on the devices where others are."""
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), values, there)

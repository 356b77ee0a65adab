"""What the networks of a run start from: published weights, another run's guidance, or neither."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffmic_jax.config import Config
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import Method
from diffmic_jax.method.networks import OF_GUIDANCE, local_trunk
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.nn import trunks, weights
from diffmic_jax.training.state import Purpose, abstract_state, completed, run_key
from diffmic_jax.types import Array, Variables

log = logging.getLogger("diffmic_jax")

AUTO = "auto"
"""Value of `pretrained`: the weights that the papers start from."""
NETWORKS = ("guidance", "denoiser")


def initial_state(
    method: Method, config: Config, mesh: Mesh, guidance: Variables | None = None
) -> tuple[TrainState, dict[str, str]]:
    """The state before the first step, on a mesh: pretrained weights, the others drawn.

    Arguments, results and errors are those of `with_pretrained`.
    """
    known, origins = with_pretrained(abstract_state(method, mesh), method, config, guidance)
    return completed(known, method, run_key(config.seed, Purpose.INIT)), origins


def with_pretrained(
    state: TrainState, method: Method, config: Config, guidance: Variables | None = None
) -> tuple[TrainState, dict[str, str]]:
    """A state whose trunks have the weights that `config.*.pretrained` names.

    `auto` stands for those that the papers start from, where they fit the trunk and can be had;
    a file of them that is damaged is refused as any other.

    Args:
      state: of the method: arrays on its devices, or their shapes and shardings.
      method: the networks.
      config: what it was built from.
      guidance: variables of the run that `config.guidance.checkpoint` names.

    Returns:
      The state, and for each network where its trunks' weights come from.

    Raises:
      InputError: weights that are named cannot be had, are damaged, or do not fit the trunk.
    """
    variables, origins = {}, {}
    for network in NETWORKS:
        own = of_network(state.variables(), network)
        if network == "guidance" and guidance is not None:
            origins[network] = config.guidance.checkpoint
            variables[network] = _of_run(guidance, own, origins[network])
        else:
            net = getattr(method, network, None)
            variables[network], origins[network] = _with_trunks(own, net, network, config)
    params, stats = (
        {network: variables[network][kind] for network in NETWORKS}
        for kind in ("params", "batch_stats")
    )
    state = state.replace(params=params, batch_stats=stats)
    if state.ema_params:
        average, average_stats = jax.tree.map(_copied, (params, stats))
        state = state.replace(ema_params=average, ema_batch_stats=average_stats)
    return state, origins


def check_named(config: Config) -> None:
    """Refuse weights that a configuration names and that cannot be had, or are damaged.

    Raises:
      InputError: they cannot, or are.
    """
    for network in NETWORKS:
        for trunk, (source, _) in _trunks(network, config).items():
            if trunk not in ("", OF_GUIDANCE) and source not in ("", AUTO, OF_GUIDANCE):
                published = trunks.entry(trunk).published
                weights.find(source, f"config.{network}.pretrained", published)


def _of_run(found: Variables, own: Variables, workdir: str) -> Variables:
    """The guidance of another run's best checkpoint, in the place of this state's."""
    found = of_network(found, "guidance")
    shapes = {str(jax.tree.map(lambda leaf: leaf.shape, tree)) for tree in (found, own)}
    if len(shapes) > 1:
        raise InputError(
            f"config.guidance.checkpoint={workdir!r}: its guidance is another network or has "
            "other classes; give its config.guidance fields"
        )
    log.info("guidance starts as that of %s", workdir)
    return _placed(found, own)


def _with_trunks(own: Variables, net: Any, network: str, config: Config) -> tuple[Variables, str]:
    """A network's variables with the weights that its trunks start from, and their origin."""
    new = {kind: dict(tree) for kind, tree in own.items()}
    origins: dict[str, str] = {}
    for trunk, (source, places) in _trunks(network, config).items():
        path, origin = _weights(network, trunk, source, config)
        origins[" and ".join(places)] = origin
        if not path:
            continue
        log.info("%s starts with %s from %s", network, " and ".join(places), origin)
        for place in places:
            # A plain classifier has nothing for regions; a shared trunk has statistics for them.
            there = [kind for kind in new if place in new[kind]]
            if there:
                module = getattr(net, place) or net.global_trunk
                values = weights.trunk_variables(module, path)
                for kind in there:
                    new[kind][place] = _placed(values[kind], new[kind][place])
    if len(set(origins.values())) == 1:
        return new, origin
    return new, ", ".join(f"{places} {origin}" for places, origin in origins.items())


def _trunks(network: str, config: Config) -> dict[str, tuple[str, tuple[str, ...]]]:
    """A network's trunks by name: the source of the weights, and the trunks' places in it."""
    guidance, denoiser = config.guidance, config.denoiser
    if network == "denoiser":
        return {denoiser.encoder: (denoiser.pretrained, ("encoder",))}
    local = local_trunk(config)
    if local == guidance.backbone or guidance.network != "dcg":
        return {guidance.backbone: (guidance.pretrained, ("global_trunk", "local_trunk"))}
    # Weights that are named are those of one trunk; the other takes what is published of it.
    return {
        guidance.backbone: (guidance.pretrained, ("global_trunk",)),
        local: (guidance.pretrained and AUTO, ("local_trunk",)),
    }


def _weights(network: str, trunk: str, source: str, config: Config) -> tuple[Path | None, str]:
    """The file of a trunk's pretrained weights and its name; None and `random` without one."""
    field = f"config.{network}.pretrained"
    if not trunk:
        return None, "not there"
    if trunk == OF_GUIDANCE or source == OF_GUIDANCE:
        return None, "the guidance"  # its features; or its trunk's weights, once that has learned
    if not source:
        log.info("%s starts from random weights, since %s=''", network, field)
        return None, "random"
    if source == AUTO:
        try:
            source = trunks.published(trunk, width=config.model.width, stem=config.model.stem)
            weights.locate(source, field)
        except InputError as reason:
            log.warning("%s starts from RANDOM weights, not published ones. %s", network, reason)
            return None, "random"
    return _found(source, field, trunks.entry(trunk).published)


def _found(source: str, field: str, published: str) -> tuple[Path, str]:
    """A file of weights, and its source with the SHA-256 that it turned out to have."""
    path = weights.find(source, field, published)
    known = weights.pinned(source, path)
    if known != source:
        log.info("%s: not pinned, any such file is taken; %s=%s is this one", source, field, known)
    return path, known


def _copied(leaf: Array | jax.ShapeDtypeStruct) -> Array | jax.ShapeDtypeStruct:
    """The array once more, since a step may overwrite one of the two; a shape as it is."""
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.copy(leaf)


def _placed(values: Variables, there: Variables) -> Variables:
    """Values on the devices where others are."""
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), values, there)

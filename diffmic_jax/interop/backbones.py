"""Trunks that start from weights trained on ImageNet."""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from diffmic_jax.interop import names, state_dict
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.recipe import Recipe
from diffmic_jax.training.state import TrainState
from diffmic_jax.types import InputError, Variables

log = logging.getLogger("diffmic_jax")

TRUNKS = {"guidance": ("global_trunk", "local_trunk"), "denoiser": ("encoder",)}


def with_pretrained(
    state: TrainState, recipe: Recipe, config: ml_collections.ConfigDict
) -> TrainState:
    """A fresh state whose trunks have the weights that `config.*.pretrained` names.

    Raises:
      InputError: weights cannot be had, or do not fit the trunk.
    """
    params, stats = dict(state.params), dict(state.batch_stats)
    for network, trunks in TRUNKS.items():
        source = config[network].pretrained
        if not source:
            log.info(
                "%s starts from random weights; config.%s.pretrained names others", network, network
            )
            continue
        params[network], stats[network] = dict(params[network]), dict(stats[network])
        for name in trunks:
            trunk = getattr(getattr(recipe, network), name)
            variables = trunk_variables(trunk, source, f"config.{network}.pretrained")
            params[network][name] = _like(variables["params"], params[network][name])
            stats[network][name] = _like(variables["batch_stats"], stats[network][name])
        log.info("%s starts with %s from %s", network, ", ".join(trunks), source)
    average = jax.tree.map(jnp.copy, params) if state.ema_params else {}
    return state.replace(params=params, batch_stats=stats, ema_params=average)


def _like(values: Variables, there: Variables) -> Variables:
    """Values on the devices where others are."""
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), values, there)


def trunk_variables(trunk: ResNet, source: str, field: str) -> Variables:
    """A trunk's variables from a classifier of torchvision or timm, without its head.

    Args:
      trunk: the network.
      source: a file, or a model of the Hugging Face hub such as `timm/resnet50.tv_in1k`.
      field: the configuration's, for messages.

    Raises:
      InputError: the weights cannot be had, or lists what does not fit.
    """
    path = _find(source, field)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes: Any = jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), image)
    return names.to_variables(state_dict.read(path), shapes, names.backbone_map(trunk), str(path))


def _find(source: str, field: str) -> Path:
    """The file, fetched from the hub if it is no file here."""
    if Path(source).is_file():
        return Path(source)
    if not re.fullmatch(r"[\w-]+/[\w.-]+", source):
        raise InputError(f"{field}={source!r}: no such file; name one, or timm/resnet50.tv_in1k")
    advice = (
        f"download model.safetensors from https://huggingface.co/{source} and name that file, or "
        "leave the field empty to start from random weights"
    )
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source, "model.safetensors"))
    except ImportError as error:
        raise InputError(
            f"{field}={source!r}: fetching needs pip install huggingface_hub; or {advice}"
        ) from error
    except Exception as error:  # the hub's client and what it stands on raise many kinds
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{field}={source!r}: cannot be fetched ({reason}); {advice}") from error

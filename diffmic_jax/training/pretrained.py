"""Trunks that start from published weights: of ImageNet classifiers, or of EfficientSAM."""

from __future__ import annotations

import logging
import re
import socket
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load_classifier
from diffmic_jax.interop import names
from diffmic_jax.method.build import GUIDANCE, Recipe
from diffmic_jax.nn import state_dict
from diffmic_jax.nn.resnet import STAGE_SIZES
from diffmic_jax.nn.vit import ViT
from diffmic_jax.training.state import TrainState, of_network
from diffmic_jax.types import Variables

log = logging.getLogger("diffmic_jax")

AUTO = "auto"
TRUNKS = {
    "guidance": ("backbone", ("global_trunk", "local_trunk")),
    "denoiser": ("encoder", ("encoder",)),
}
"""For each network the field that names its trunk, and the trunks."""
PUBLISHED = {
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet34": "timm/resnet34.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
    "vit_s16": "timm/deit_small_patch16_224.fb_in1k",
    "vit_b16": "timm/deit_base_patch16_224.fb_in1k",
    "swin_t": "timm/swin_tiny_patch4_window7_224.ms_in1k",
    "pvt_v2_b2": "timm/pvt_v2_b2.in1k",
    "efficientsam_ti": "yunyangx/EfficientSAM/efficient_sam_vitt.pt",
    "efficientsam_s": "yunyangx/EfficientSAM/efficient_sam_vits.pt",
}
"""Trained on ImageNet, on images normalised as ours are, and EfficientSAM's encoder."""


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
    for network, (_, trunks) in TRUNKS.items():
        if network == "guidance" and config.guidance.checkpoint:
            origins[network] = config.guidance.checkpoint
            own = _guidance(Path(config.guidance.checkpoint), state)
            params[network], stats[network] = own["params"], own["batch_stats"]
            continue
        path, origins[network] = _weights(network, config)
        if path is None:
            continue
        params[network], stats[network] = dict(params[network]), dict(stats[network])
        for name in (each for each in trunks if each in params[network]):
            values = trunk_variables(getattr(getattr(recipe, network), name), path)
            params[network][name] = _like(values["params"], params[network][name])
            if "batch_stats" in values:  # a ViT has none
                stats[network][name] = _like(values["batch_stats"], stats[network][name])
        log.info("%s starts with %s from %s", network, " and ".join(trunks), origins[network])
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
        return _find(source, field), source
    try:
        source = _published(network, config)
        return _find(source, field), source
    except InputError as error:
        log.warning("%s starts from RANDOM weights, not from published ones. %s", network, error)
        return None, "random"


def _published(network: str, config: ml_collections.ConfigDict) -> str:
    """The hub's name of the published weights of a network's trunk."""
    options = config[network]
    name = options[TRUNKS[network][0]]
    fits = name not in STAGE_SIZES or (options.width == 64 and options.stem == "imagenet")
    if name not in PUBLISHED or not fits:
        raise InputError(f"None are known for {name}, width {options.width}, stem {options.stem}")
    return PUBLISHED[name]


def _like(values: Variables, there: Variables) -> Variables:
    """Values on the devices where others are."""
    return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), values, there)


def trunk_variables(trunk: nn.Module, path: Path) -> Variables:
    """A trunk's variables from a file of published weights.

    They are those of a classifier of timm (a ResNet: or of torchvision) without its head, or of
    EfficientSAM's image encoder without its neck.

    Raises:
      InputError: lists what does not fit.
    """
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes: Any = jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), image)
    within = "image_encoder." if isinstance(trunk, ViT) and not trunk.class_token else ""
    state = state_dict.read(path, within)
    return names.to_variables(state, shapes, names.backbone_map(trunk), str(path))


def _find(source: str, field: str) -> Path:
    """The file, fetched from the hub if it is no file here."""
    if Path(source).is_file():
        return Path(source)
    found = re.fullmatch(r"([\w-]+/[\w.-]+)(?:/([\w.-]+))?", source)
    if not found:
        raise InputError(
            f"{field}={source!r}: no such file; name one, or timm/resnet50.tv_in1k for a ResNet, "
            f"{PUBLISHED['efficientsam_s']} for a ViT"
        )
    repository, file = found[1], found[2] or "model.safetensors"
    advice = (
        f"download {file} from https://huggingface.co/{repository} and name that file, or "
        "leave the field empty to start from random weights"
    )
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
        _check_reachable()
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub's client and what it stands on raise many kinds
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{field}={source!r}: no file here, and cannot be fetched ({reason}); {advice}"
        ) from error


def _check_reachable() -> None:
    """Fail at once where there is no network; the hub's client would try for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    url = urllib.parse.urlsplit(ENDPOINT)
    if not urllib.request.getproxies():
        socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()

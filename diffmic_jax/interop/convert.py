"""PyTorch checkpoints as workdirs, and the way back."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.files import write_json
from diffmic_jax.errors import InputError
from diffmic_jax.inference.load import load_classifier
from diffmic_jax.interop.names import denoiser_map, guidance_map
from diffmic_jax.method.build import Recipe, make_recipe
from diffmic_jax.nn import names, state_dict, trunks
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.state_dict import StateDict
from diffmic_jax.report.checklist import write_documents
from diffmic_jax.settings import resolve
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.pretrained import with_pretrained
from diffmic_jax.training.state import (
    Purpose,
    TrainState,
    fresh_state,
    init_state,
    of_network,
    run_key,
)
from diffmic_jax.training.workdir import as_json
from diffmic_jax.types import Variables

EXTRAS = "torch.safetensors"
"""In a converted workdir: what its PyTorch checkpoints hold and ours do not."""

ENCODER = "encoder_x.f."
"""Prefix of the image encoder's names, where a ViT does not say otherwise."""


def from_diffmic(
    denoiser: Path,
    guidance: Path,
    workdir: Path,
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...] = (),
) -> Recipe:
    """Make a workdir of the two state dicts of a DiffMIC run, or of the one file of a v2 run.

    The sizes of the networks are read from the tensors; what they do not tell (size of the regions
    and their number in v1, image size, schedule, sampling) is the configuration's.

    Args:
      denoiser: the authors' `ckpt_best.pth`, or a `.safetensors` of the same names; a Lightning
        checkpoint of v2.
      guidance: their `aux_ckpt_best.pth`, likewise; the same Lightning checkpoint.
      workdir: new folder.
      config: of the data set, recipe `v1_public` or `v2`.
      class_names: in label order; default: those of the configuration or its data set, else 0, 1...

    Raises:
      InputError: a file cannot be read or does not fit, or the workdir is taken.
    """
    _check_free(workdir)
    files = {"guidance": guidance, "denoiser": denoiser}
    states = {network: _read_network(path, network) for network, path in files.items()}
    num_classes = _describe(config, states, files)
    config = resolve(config)
    multi_label = _is_multi_label(config)
    named = _class_names(config, class_names, num_classes)
    recipe = make_recipe(config, num_classes, multi_label=multi_label)
    encoder = _encoder_prefix(states["denoiser"])
    maps = _maps(recipe, encoder)
    abstract = jax.eval_shape(partial(init_state, recipe), run_key(config.seed, Purpose.INIT))
    networks = {
        network: names.to_variables(
            states[network],
            of_network(abstract.variables(), network),
            maps[network],
            what=str(files[network]),
        )
        for network in states
    }
    meta = {
        "class_names": list(named),
        "multi_label": multi_label,
        "origins": {network: f"converted from {path.name}" for network, path in files.items()},
        "encoder_prefix": encoder,
    }
    _write_workdir(workdir, config, _state_of(abstract, networks), meta)
    extras = {
        f"{network}/{name}": value
        for network, state in states.items()
        for name, value in names.left_over(state, maps[network]).items()
    }
    state_dict.write(workdir / EXTRAS, extras)
    return recipe


def _read_network(path: Path, network: str) -> StateDict:
    """A network's state dict, without the prefix that a Lightning checkpoint gives it."""
    prefix = {"guidance": "aux_model.", "denoiser": "model."}[network]
    state = state_dict.read(path)
    own = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    return own or state


def _state_of(abstract: TrainState, networks: dict[str, Variables]) -> TrainState:
    """A state of step 0 with each network's variables."""
    variables = {
        kind: {network: networks[network][kind] for network in networks}
        for kind in abstract.variables()
    }
    # Whatever optimizers remember starts at zero.
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    average = variables["params"] if abstract.ema_params else {}
    return state.replace(**variables, ema_params=average)


def from_backbone(
    weights: Path,
    workdir: Path,
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...] = (),
) -> Recipe:
    """Make a workdir at step 0 whose guidance has the trunks of a classifier's state dict.

    `main.py` trains on from there. The trunk's depth is read from the tensors.

    Args:
      weights: a ResNet of torchvision or timm.
      workdir: new folder.
      config: of the data set.
      class_names: in label order; default: those of the configuration or its data set.

    Raises:
      InputError: the file cannot be read or does not fit, the classes are not known, or the workdir
        is taken.
    """
    _check_free(workdir)
    state = state_dict.read(weights)
    if "conv1.weight" not in state:
        raise InputError(f"{weights}: no ResNet of torchvision or timm, conv1.weight is missing")
    config.guidance.update(
        backbone=_backbone(state, "", named=True),
        width=len(state["conv1.weight"]),
        pretrained=str(weights),
    )
    config = resolve(config)
    class_names = _class_names(config, class_names)
    multi_label = _is_multi_label(config)
    recipe = make_recipe(config, len(class_names), multi_label=multi_label)
    initial = fresh_state(recipe, run_key(config.seed, Purpose.INIT))
    fresh, origins = with_pretrained(initial, recipe, config)
    meta = {"class_names": list(class_names), "multi_label": multi_label, "origins": origins}
    _write_workdir(workdir, config, fresh, meta)
    return recipe


def _is_multi_label(config: ml_collections.ConfigDict) -> bool:
    known = CATALOG.get(config.data.name)
    return config.data.multi_label or bool(known and known.multi_label)


def _check_free(workdir: Path) -> None:
    if (workdir / "checkpoints").exists():
        raise InputError(f"{workdir}: holds a run already; choose another --workdir")


def _write_workdir(
    workdir: Path, config: ml_collections.ConfigDict, state: TrainState, meta: dict[str, Any]
) -> None:
    """A workdir with one checkpoint, of step 0."""
    meta = meta | {"config": as_json(config)}
    write_json(workdir / "config.json", meta["config"])
    with Checkpoints(workdir, config.checkpoint.metric) as checkpoints:
        checkpoints.save(0, state, meta)
    write_documents(workdir, meta)


def to_diffmic(workdir: Path, denoiser: Path, guidance: Path) -> None:
    """Write a workdir's best checkpoint as two state dicts with the names of the authors' code.

    Raises:
      InputError: there is no checkpoint, the recipe has no names there, or a file cannot be
        written.
    """
    classifier = load_classifier(workdir)
    path = workdir / EXTRAS
    extras = state_dict.read(path) if path.exists() else {}
    maps = _maps(classifier.recipe, classifier.meta.get("encoder_prefix", ENCODER))
    for network, out in {"denoiser": denoiser, "guidance": guidance}.items():
        own = of_network(classifier.variables, network)
        kept = {
            name.removeprefix(f"{network}/"): value
            for name, value in extras.items()
            if name.startswith(f"{network}/")
        }
        state_dict.write(out, names.to_state_dict(own, maps[network], kept))


def _maps(recipe: Recipe, encoder: str) -> dict[str, names.Map]:
    """The names of both networks, the image encoder's with its prefix."""
    if not isinstance(recipe.guidance, DCG) or recipe.denoiser is None:
        raise InputError(f"the authors' code has no names for the recipe {recipe.name}")
    return {
        "guidance": guidance_map(recipe.guidance),
        "denoiser": denoiser_map(recipe.denoiser, encoder),
    }


def _encoder_prefix(denoiser: StateDict) -> str:
    """What stands before the names of a ViT; a numbered ResNet has a fixed place."""
    last = "patch_embed.proj.weight"
    found = [name.removesuffix(last) for name in denoiser if name.endswith(last)]
    return found[0] if found else ENCODER


def _describe(
    config: ml_collections.ConfigDict, states: dict[str, StateDict], files: dict[str, Path]
) -> int:
    """Fill in the sizes of the networks; gives the number of classes."""
    guidance, denoiser = states["guidance"], states["denoiser"]
    is_v2 = "cond_weight" in denoiser
    if is_v2 != (config.recipe == "v2"):
        raise InputError(
            f"{files['denoiser']}: of DiffMIC-v{2 if is_v2 else 1}, but --config has the recipe "
            f"{config.recipe}; name {'v2' if is_v2 else 'v1_public'} after the file and a colon"
        )
    try:
        config.guidance.update(
            backbone=_backbone(guidance, "ds_net.f."), width=len(guidance["ds_net.f.0.weight"])
        )
        config.denoiser.feature_dim = denoiser["lin4.weight"].shape[1]
        config.diffusion.num_train_steps = len(denoiser["lin1.embed.weight"]) - 1
        (_describe_v2 if is_v2 else _describe_v1)(config, denoiser)
        return len(denoiser["lin4.weight"])
    except KeyError as error:
        raise InputError(
            f"{files['guidance']}, {files['denoiser']}: no state dicts of DiffMIC, {error} is "
            "missing; name aux_ckpt_best.pth as --guidance and ckpt_best.pth as --denoiser"
        ) from error


def _describe_v1(config: ml_collections.ConfigDict, denoiser: StateDict) -> None:
    config.denoiser.update(
        encoder=_backbone(denoiser, "encoder_x.f."), width=len(denoiser["encoder_x.f.0.weight"])
    )


def _describe_v2(config: ml_collections.ConfigDict, denoiser: StateDict) -> None:
    tokens = denoiser[f"{_encoder_prefix(denoiser)}pos_embed"].shape[-1]
    known = {_num_features(name): name for name in trunks.names("efficientsam")}
    config.guidance.num_regions = denoiser["cond_weight"].shape[-1] - 1
    config.denoiser.update(
        encoder=known.get(tokens, config.denoiser.encoder),
        local_encoder=_backbone(denoiser, "encoder_x_l.f."),
        width=len(denoiser["encoder_x_l.f.0.weight"]),
    )


def _num_features(encoder: str) -> int:
    built: Any = trunks.build(encoder)
    return built.num_features


def _backbone(state: StateDict, prefix: str, *, named: bool = False) -> str:
    """Which ResNet a state dict holds; its stages are 4 to 7, or layer1 to layer4."""
    first, third = ("layer1", "layer3") if named else ("4", "6")
    pattern = re.escape(f"{prefix}{third}.") + r"(\d+)\.conv1\.weight"
    blocks = sum(re.fullmatch(pattern, name) is not None for name in state)
    if f"{prefix}{first}.0.conv3.weight" in state:
        return "resnet50"
    return "resnet34" if blocks > 2 else "resnet18"


def _class_names(
    config: ml_collections.ConfigDict, given: tuple[str, ...], num_classes: int = 0
) -> tuple[str, ...]:
    known: Any = given or tuple(map(str, config.data.class_names))
    if not known and config.data.name in CATALOG:
        known = CATALOG[config.data.name].class_names
    known = known or MEDMNIST.get(config.data.name) or tuple(map(str, range(num_classes)))
    if not known:
        raise InputError("--class_names is missing; give them in label order, as benign,malignant")
    if num_classes and len(known) != num_classes:
        raise InputError(
            f"--class_names: {len(known)} ({','.join(known)}), but the checkpoint has {num_classes}"
        )
    return known

"""PyTorch checkpoints as workdirs, and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffmic_jax.config import Config
from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.data.files import new_folder, write_json
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.inference.card import write_card
from diffmic_jax.inference.load import load
from diffmic_jax.interop.names import denoiser_map, guidance_map
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.method.task import Task
from diffmic_jax.nn import names, state_dict, trunks
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.state_dict import StateDict
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.pretrained import initial_state
from diffmic_jax.training.state import abstract_state
from diffmic_jax.types import Variables

EXTRAS = "torch.safetensors"
"""In a converted workdir: what its PyTorch checkpoints hold and ours do not."""

ENCODER = "encoder_x.f."
"""Prefix of the image encoder's names, where a ViT has no other."""


def from_diffmic(
    files: Mapping[str, Path],
    workdir: Path,
    config: Config,
    class_names: tuple[str, ...] = (),
) -> Method:
    """Make a workdir of the two state dicts of a DiffMIC run, or of the one file of a v2 run.

    The sizes of the networks are read from the tensors; what they do not determine (size of the
    regions and their number in v1, image size, schedule, sampling) is the configuration's.

    Args:
      files: `denoiser`, the authors' `ckpt_best.pth` or a `.safetensors` of the same names, and
        `guidance`, their `aux_ckpt_best.pth`, likewise; a Lightning checkpoint of v2 for both.
      workdir: new folder.
      config: of the data set, recipe `v1_public` or `v2`.
      class_names: in label order; default: those of the configuration or its data set, else 0, 1...

    Raises:
      InputError: a file cannot be read or does not fit, or the workdir holds a run already.
    """
    _check_free(workdir)
    states = {network: _read_network(files[network], network) for network in files}
    sizes, num_classes = _sizes(config, states, files)
    config = config.changed(sizes)
    task = _task(config, class_names, num_classes)
    method = build(config, task)
    encoder = _encoder_prefix(states["denoiser"])
    maps = _maps(method, encoder)
    abstract = abstract_state(method, parallel.make_mesh())
    networks = {
        network: names.to_variables(
            states[network],
            of_network(abstract.variables(), network),
            maps[network],
            what=str(files[network]),
        )
        for network in states
    }
    origins = {network: f"converted from {path.name}" for network, path in files.items()}
    meta = {"origins": origins, "encoder_prefix": encoder}
    extras = {
        f"{network}/{name}": value
        for network, state in states.items()
        for name, value in names.left_over(state, maps[network]).items()
    }
    _write_workdir(workdir, config, task, (_state_of(abstract, networks), meta), extras)
    return method


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
    if abstract.ema_params:
        average = {f"ema_{kind}": tree for kind, tree in variables.items()}
        state = state.replace(**average)
    return state.replace(**variables)


def from_backbone(
    weights: Path,
    workdir: Path,
    config: Config,
    class_names: tuple[str, ...] = (),
) -> Method:
    """Make a workdir at step 0 whose guidance has the trunks of a classifier's state dict.

    `main.py` trains on from there. The trunk's depth is read from the tensors.

    Args:
      weights: a ResNet of torchvision or timm.
      workdir: new folder.
      config: of the data set.
      class_names: in label order; default: those of the configuration or its data set.

    Raises:
      InputError: the file cannot be read or does not fit, the classes are not known, or the workdir
        holds a run already.
    """
    _check_free(workdir)
    state = state_dict.read(weights)
    if "conv1.weight" not in state:
        raise InputError(
            f"{weights}: conv1.weight is missing; give a ResNet of torchvision or timm"
        )
    config = config.changed(
        {
            "guidance.backbone": _backbone(state, "", named=True),
            "model.width": len(state["conv1.weight"]),
            "guidance.pretrained": str(weights),
        }
    )
    task = _task(config, class_names)
    method = build(config, task)
    fresh, origins = initial_state(method, config, parallel.make_mesh())
    _write_workdir(workdir, config, task, (fresh, {"origins": origins}), {})
    return method


def _task(config: Config, class_names: tuple[str, ...], num_classes: int = 0) -> Task:
    """The labels of a converted run."""
    options, names = Options(config.data), _class_names(config, class_names, num_classes)
    return Task(
        class_names=names,
        multi_label=options.multi_label,
        ordered=bool(class_names) or options.ordered(names),
    )


def _check_free(workdir: Path) -> None:
    if (workdir / "checkpoints").exists():
        raise InputError(f"{workdir}: holds a run already; choose another --workdir")
    if workdir.exists() and not (workdir.is_dir() and not any(workdir.iterdir())):
        raise InputError(f"{workdir}: is there already; choose another --workdir")


def _write_workdir(
    workdir: Path,
    config: Config,
    task: Task,
    saved: tuple[TrainState, Mapping[str, Any]],
    extras: StateDict,
) -> None:
    """A workdir with one checkpoint, of step 0, and tensors that it has no place for."""
    state, meta = saved
    meta = {**meta, **task.for_checkpoint(), "config": config.to_dict()}
    with new_folder(workdir) as part:
        write_json(part / "config.json", config.to_dict())
        if extras:
            state_dict.write(part / EXTRAS, extras)
        with Checkpoints(part, config.checkpoint.metric) as checkpoints:
            checkpoints.save(0, state, meta)
        write_card(load(part))


def to_diffmic(workdir: Path, denoiser: Path, guidance: Path) -> None:
    """Write a workdir's best checkpoint as two state dicts with the names of the authors' code.

    Raises:
      InputError: there is no checkpoint, the recipe has no names there, or a file cannot be
        written.
    """
    model = load(workdir)
    path = workdir / EXTRAS
    extras = state_dict.read(path) if path.exists() else {}
    maps = _maps(model.method, model.meta.get("encoder_prefix", ENCODER))
    for network, out in {"denoiser": denoiser, "guidance": guidance}.items():
        own = of_network(model.variables, network)
        kept = {
            name.removeprefix(f"{network}/"): value
            for name, value in extras.items()
            if name.startswith(f"{network}/")
        }
        state_dict.write(out, names.to_state_dict(own, maps[network], kept))


def _maps(method: Method, encoder: str) -> dict[str, names.Map]:
    """The names of both networks, the image encoder's with its prefix."""
    if not isinstance(method.guidance, DCG) or method.denoiser is None:
        raise InputError(f"the authors' code has no names for the recipe {method.name}")
    return {
        "guidance": guidance_map(method.guidance),
        "denoiser": denoiser_map(method.denoiser, encoder),
    }


def _encoder_prefix(denoiser: StateDict) -> str:
    """What stands before the names of a ViT; a numbered ResNet has a fixed place."""
    last = "patch_embed.proj.weight"
    found = [name.removesuffix(last) for name in denoiser if name.endswith(last)]
    return found[0] if found else ENCODER


def _sizes(
    config: Config, states: Mapping[str, StateDict], files: Mapping[str, Path]
) -> tuple[dict[str, Any], int]:
    """The fields of the configuration that the tensors determine, and the number of classes."""
    guidance, denoiser = states["guidance"], states["denoiser"]
    is_v2 = "cond_weight" in denoiser
    if is_v2 != (config.denoiser.conditioning == "map"):
        raise InputError(
            f"{files['denoiser']}: of DiffMIC-v{2 if is_v2 else 1}, but --config has the recipe "
            f"{config.recipe}; name {'v2' if is_v2 else 'v1_public'} after the file and a colon"
        )
    try:
        sizes = {
            "guidance.backbone": _backbone(guidance, "ds_net.f."),
            "model.width": len(guidance["ds_net.f.0.weight"]),
            "denoiser.feature_dim": denoiser["lin4.weight"].shape[1],
            "diffusion.num_train_steps": len(denoiser["lin1.embed.weight"]) - 1,
        }
        sizes |= _encoder_sizes(config, denoiser) if is_v2 else _resnet_sizes(denoiser)
        return sizes, len(denoiser["lin4.weight"])
    except KeyError as error:
        raise InputError(
            f"{files['guidance']}, {files['denoiser']}: {error} is missing, these are no state "
            "dicts of DiffMIC; name aux_ckpt_best.pth as --guidance and ckpt_best.pth as --denoiser"
        ) from error


def _resnet_sizes(denoiser: StateDict) -> dict[str, Any]:
    """Of v1."""
    return {"denoiser.encoder": _backbone(denoiser, "encoder_x.f.")}


def _encoder_sizes(config: Config, denoiser: StateDict) -> dict[str, Any]:
    """Of v2."""
    tokens = denoiser[f"{_encoder_prefix(denoiser)}pos_embed"].shape[-1]
    known = {_num_features(name): name for name in trunks.names("efficientsam")}
    return {
        "guidance.num_regions": denoiser["cond_weight"].shape[-1] - 1,
        "denoiser.encoder": known.get(tokens, config.denoiser.encoder),
        "denoiser.local_encoder": _backbone(denoiser, "encoder_x_l.f."),
    }


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


def _class_names(config: Config, given: tuple[str, ...], num_classes: int = 0) -> tuple[str, ...]:
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

"""The authors' checkpoints as workdirs, and the way back."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections

from diffmic_jax.data.catalog import CATALOG, MEDMNIST
from diffmic_jax.evaluation.predict import load_classifier
from diffmic_jax.evaluation.records import write_json
from diffmic_jax.interop import names, state_dict
from diffmic_jax.interop.state_dict import StateDict
from diffmic_jax.recipe import Recipe, make_recipe, resolve
from diffmic_jax.training.checkpoint import Checkpoints
from diffmic_jax.training.state import Purpose, init_state, init_variables, run_key
from diffmic_jax.types import InputError


def load_config(spec: str) -> ml_collections.ConfigDict:
    """A configuration as `--config` names it: FILE or FILE:RECIPE.

    Raises:
      InputError: there is no such file, or it is no configuration.
    """
    file, _, recipe = spec.partition(":")
    if not Path(file).is_file():
        raise InputError(f"--config={file}: no such file; name one of configs/")
    # Configurations import each other from the folder above theirs.
    sys.path.insert(0, str(Path(file).resolve().parent.parent))
    try:
        return runpy.run_path(file)["get_config"](*filter(None, [recipe]))
    except (KeyError, ImportError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"--config={spec}: no configuration ({error})") from error
    finally:
        sys.path.pop(0)


def from_diffmic(
    denoiser: Path,
    guidance: Path,
    workdir: Path,
    config: ml_collections.ConfigDict,
    class_names: tuple[str, ...] = (),
) -> Recipe:
    """Make a workdir of the two state dicts of a DiffMIC v1 run.

    The sizes of the networks are read from the tensors; what they do not tell (number and size of
    the regions, image size, schedule, sampling) is the configuration's.

    Args:
      denoiser: the authors' `ckpt_best.pth`, or a `.safetensors` of the same names.
      guidance: their `aux_ckpt_best.pth`, likewise.
      workdir: new folder.
      config: of the data set, recipe `v1_public`.
      class_names: in label order; default: those of the configuration or its data set, else 0, 1...

    Raises:
      InputError: a file cannot be read or does not fit, or the workdir is taken.
    """
    states = {"guidance": state_dict.read(guidance), "denoiser": state_dict.read(denoiser)}
    files = {"guidance": guidance, "denoiser": denoiser}
    num_classes = _describe(config, states, files)
    config = resolve(config)
    class_names = _class_names(config, class_names, num_classes)
    recipe = make_recipe(config, num_classes)
    maps = _maps(recipe)
    key = run_key(config.seed, Purpose.INIT)
    shapes = jax.eval_shape(partial(init_variables, recipe), key)
    networks = {
        network: names.to_variables(
            states[network],
            {kind: tree[network] for kind, tree in shapes.items()},
            maps[network],
            str(files[network]),
        )
        for network in states
    }
    variables = {
        kind: {network: networks[network][kind] for network in networks} for kind in shapes
    }
    if (workdir / "checkpoints").exists():
        raise InputError(f"{workdir}: holds a run already; choose another --workdir")
    state = jax.jit(partial(init_state, recipe))(key).replace(**variables)
    stored = config.to_dict()
    meta = {
        "config": stored,
        "class_names": list(class_names),
        "multi_label": False,
        "torch": {network: names.left_over(states[network]) for network in states},
    }
    write_json(workdir / "config.json", stored)
    with Checkpoints(workdir, config.checkpoint.metric) as checkpoints:
        checkpoints.save(0, state, meta)
    return recipe


def to_diffmic(workdir: Path, denoiser: Path, guidance: Path) -> None:
    """Write a workdir's best checkpoint as two state dicts with the names of the authors' code.

    Raises:
      InputError: there is no checkpoint, the recipe has no names there, or a file cannot be
        written.
    """
    classifier = load_classifier(workdir)
    with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
        extras = checkpoints.meta(classifier.step).get("torch", {})
    states = {}
    for network, names_ in _maps(classifier.recipe).items():
        own = {kind: tree[network] for kind, tree in classifier.variables.items()}
        states[network] = names.to_state_dict(own, names_, extras.get(network, {}))
    state_dict.write(denoiser, states["denoiser"])
    state_dict.write(guidance, states["guidance"])


def _maps(recipe: Recipe) -> dict[str, names.Map]:
    guidance, denoiser = recipe.guidance, recipe.denoiser
    return {
        "guidance": names.guidance_map(guidance.global_trunk, guidance.local_trunk),  # type: ignore[arg-type]
        "denoiser": names.denoiser_map(denoiser.encoder),  # type: ignore[arg-type]
    }


def _describe(
    config: ml_collections.ConfigDict, states: dict[str, StateDict], files: dict[str, Path]
) -> int:
    """Fill in the sizes of the networks; gives the number of classes."""
    guidance, denoiser = states["guidance"], states["denoiser"]
    try:
        config.guidance.update(
            backbone=_backbone(guidance, "ds_net.f."), width=len(guidance["ds_net.f.0.weight"])
        )
        config.denoiser.update(
            encoder=_backbone(denoiser, "encoder_x.f."),
            width=len(denoiser["encoder_x.f.0.weight"]),
            feature_dim=denoiser["lin4.weight"].shape[1],
        )
        config.diffusion.num_train_steps = len(denoiser["lin1.embed.weight"]) - 1
        return len(denoiser["lin4.weight"])
    except KeyError as error:
        raise InputError(
            f"{files['guidance']}, {files['denoiser']}: no DiffMIC v1 state dicts, {error} is "
            "missing; name aux_ckpt_best.pth as --guidance and ckpt_best.pth as --denoiser"
        ) from error


def _backbone(state: StateDict, prefix: str) -> str:
    """Which ResNet a state dict holds."""
    pattern = re.escape(prefix) + r"6\.(\d+)\.conv1\.weight"
    blocks = sum(re.fullmatch(pattern, name) is not None for name in state)
    if f"{prefix}4.0.conv3.weight" in state:
        return "resnet50"
    return "resnet34" if blocks > 2 else "resnet18"


def _class_names(
    config: ml_collections.ConfigDict, given: tuple[str, ...], num_classes: int
) -> tuple[str, ...]:
    known: Any = given or tuple(map(str, config.data.class_names))
    if not known and config.data.name in CATALOG:
        known = CATALOG[config.data.name].class_names
    known = known or MEDMNIST.get(config.data.name) or tuple(map(str, range(num_classes)))
    if len(known) != num_classes:
        raise InputError(
            f"--class_names: {len(known)} ({','.join(known)}), but the checkpoint has {num_classes}"
        )
    return known

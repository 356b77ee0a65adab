"""A run's folder, and the checks that no other run goes on in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmic_jax.config import Config, fields
from diffmic_jax.data.files import read_json, read_table
from diffmic_jax.errors import InputError
from diffmic_jax.fields import flatten

FREE_FIELDS = frozenset(spec.name for spec in fields() if spec.free)
"""What a run may change when it goes on."""


def skipped_images(workdir: Path) -> list[str]:
    """The images that a run left out, in order."""
    path = workdir / "skipped.csv"
    if not path.exists():
        return []
    return [row["image"] for row in read_table(path, "image")]


def check_workdir(workdir: Path, config: Config) -> None:
    """Check that the workdir is new or this configuration's own.

    Raises:
      InputError: it belongs to a run of another configuration (names the fields that differ), or to
        another version of this package.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        stored = read_json(path)
    except (OSError, InputError) as error:
        raise InputError(f"{error}; or choose another --workdir") from error
    check_same_run(str(workdir), stored, config)


def check_same_run(where: str, stored: Mapping[str, Any], config: Config) -> None:
    """Check that two configurations compute the same, apart from further epochs at constant rates.

    Args:
      where: the place of the stored one, for the message.
      stored: as JSON has it.
      config: the other one.

    Raises:
      InputError: naming the fields that differ.
    """
    there = flatten(stored_config(stored, where).to_dict())
    wanted = flatten(config.to_dict())
    differences = [
        f"config.{field}={there[field]!r}, not {value!r}"
        for field, value in sorted(wanted.items())
        if field not in FREE_FIELDS and there[field] != value
    ]
    if len(differences) == 1 and config.train.epochs > there["train.epochs"]:
        if rates_are_constant(config):
            return
        raise InputError(
            f"{where} belongs to a run with {differences[0]}; its rates or weights follow "
            "these epochs, so more are another run: choose another --workdir, perhaps with "
            f"--config.guidance.checkpoint={where}. To make a run longer later, give it all epochs "
            "at once and a config.train.max_steps, which can be raised"
        )
    if differences:
        raise InputError(
            f"{where} belongs to a run with {'; '.join(differences)}; "
            "choose another --workdir or give the same values"
        )


def rates_are_constant(config: Config) -> bool:
    """Whether what a step computes does not depend on how many epochs follow."""
    train, guidance = config.train, config.guidance
    denoiser = train.learning_rate == train.final_learning_rate and not train.warmup_fraction
    return (
        guidance.rate == "constant"
        and guidance.class_weights != "deferred"
        and (denoiser or not config.denoiser.encoder)
    )


def stored_config(stored: Any, where: str) -> Config:
    """The configuration that a run was trained with.

    Args:
      stored: as JSON has it.
      where: its place, for the message.

    Raises:
      InputError: it is of another version of this package.
    """
    try:
        if not isinstance(stored, Mapping):
            raise InputError(f"{where}: has no configuration")
        return Config.from_dict(stored, where)
    except InputError as error:
        raise InputError(
            f"{error}; the run is of another version of diffmic_jax: use that one, or train anew"
        ) from error


def config_sha256(config: Config) -> str:
    """A hash of what a configuration computes: the fields that are free to change are left out."""
    fixed = {name: x for name, x in flatten(config.to_dict()).items() if name not in FREE_FIELDS}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def check_writable(workdir: Path) -> None:
    """Check, without writing, that files can be made in a workdir that may not exist yet.

    Raises:
      InputError: if not.
    """
    folder = next(each for each in (workdir, *workdir.absolute().parents) if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{folder} cannot be written; change its permissions or choose another --workdir"
        )

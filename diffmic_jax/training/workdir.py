"""What a run's folder says of the run, so that no other one goes on in it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from diffmic_jax.errors import InputError
from diffmic_jax.settings import open_fields

# Fields that a run may change when it goes on: where things are, how often it reports, and what it
# started from, which the checkpoint knows.
FREE_FIELDS = (
    "guidance.checkpoint",
    "guidance.pretrained",
    "denoiser.pretrained",
    "data.root",
    "data.cache_dir",
    "data.num_workers",
    "train.max_steps",
    "train.patience",
    "train.log_every",
    "train.on_nan",
    "train.max_minutes",
    "train.hang_minutes",
    "train.model_shards",
    "checkpoint.every_steps",
    "eval.batch_size",
    "eval.bootstrap",
)


def skipped_images(workdir: Path) -> list[str]:
    """The images that a run left out, in order."""
    path = workdir / "skipped.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row["image"] for row in csv.DictReader(file)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionary to `{'a.b': value}`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Check that the workdir is new or this configuration's own.

    Raises:
      InputError: if it belongs to a run of another configuration, naming a field that differs.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        theirs = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}); choose another --workdir") from error
    check_same_run(str(workdir), theirs, as_json(config))


def check_same_run(where: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Check that two configurations compute the same.

    Args:
      where: what belongs to the other one, for the message.
      theirs: as `as_json` gives it, maybe of an earlier version, which had fewer fields.
      ours: likewise, of this version.

    Raises:
      InputError: naming the fields that differ.
    """
    there = _as_json(open_fields(theirs.get("recipe", ""))) | _flat(theirs)
    wanted = _flat(ours)
    differences = [
        f"config.{field}={there.get(field)!r}, not {wanted.get(field)!r}"
        for field in sorted(there.keys() | wanted.keys())
        if field not in FREE_FIELDS and there.get(field) != wanted.get(field)
    ]
    if differences:
        raise InputError(
            f"{where} belongs to a run with {'; '.join(differences)}; "
            "choose another --workdir or give the same values"
        )


def config_sha256(config: Mapping[str, Any]) -> str:
    """A hash of what a configuration computes: the fields that are free to change are left out."""
    fixed = {field: value for field, value in _flat(config).items() if field not in FREE_FIELDS}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def check_writable(workdir: Path) -> None:
    """Check, without writing, that files can be made in a workdir that may not exist yet.

    Raises:
      InputError: if not.
    """
    folder = next(each for each in (workdir, *workdir.absolute().parents) if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written; mend that or choose another --workdir")


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as it comes back from a JSON file: tuples are lists."""
    return _as_json(config.to_dict())


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))

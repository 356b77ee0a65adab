"""What a run's folder says of the run, so that no other one goes on in it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from diffmic_jax.types import InputError

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
    "train.log_every",
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
        theirs = _flat(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error}); choose another --workdir") from error
    wanted = _flat(as_json(config))
    for field in sorted(theirs.keys() | wanted.keys()):
        if field not in FREE_FIELDS and theirs.get(field) != wanted.get(field):
            raise InputError(
                f"{workdir} belongs to a run with config.{field}={theirs.get(field)!r}, not "
                f"{wanted.get(field)!r}; choose another --workdir or give the same value"
            )


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as it comes back from a JSON file: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 over the fields that decide a run's results, as JSON with sorted keys."""
    fields = {name: value for name, value in _flat(config).items() if name not in FREE_FIELDS}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

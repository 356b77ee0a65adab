"""A study file of tiny runs, and what its tests share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffmic_jax.study import runs as study_runs
from diffmic_jax.study.runs import Outcome
from tests.helpers import whole_scores

STUDY = """
from diffmic_jax.study.definition import Row, Study
from studies import table2

CONFIG = "{config}"


def get_study(variant="all"):
    rows = (
        Row("basic", CONFIG + ":classifier"),
        Row("v1", CONFIG + ":v1"),
        Row("C1", CONFIG + ":v1", table2.C1 | dict([("guidance.backbone", "tiny"),
            ("guidance.checkpoint", "{{basic}}")])),
        Row("broken", CONFIG + ":v1", dict([("data.root", "/no/such/folder")])),
        Row("guidance", of="v1", guidance=True),
        Row("samples", of="v1", sampling=dict(num_samples=3)),
        Row("basic-b", CONFIG + ":classifier", seed_shift=100),
        Row("pair", members=("basic", "basic-b")),
    )
    return Study("A study", rows, seeds=(0, 1) if variant == "all" else (0,))
"""
CONFIG = """
from functools import partial
from pathlib import Path

from tests import tiny


def get_config(recipe="v1"):
    return tiny.make_config(Path("{root}"), recipe, guidance__warmup_epochs=0, train__epochs=1)
"""


def noted(ran: list[str], config: object, workdir: Path, minutes: object) -> SimpleNamespace:
    """A training that only leaves its name."""
    ran.append(workdir.name)
    return SimpleNamespace(cpu_seconds=None, metrics={})


def write_scores(folder: Path, confusion: list[list[int]]) -> None:
    counts = np.array(confusion)
    accuracy = float(counts.trace() / counts.sum())
    scores = dict.fromkeys(study_runs.METRICS, accuracy) | {"confusion": confusion, "ci95": {}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(whole_scores(scores)))


def outcome(row: str, folder: Path, workdir: Path, **more: Any) -> Outcome:
    """A finished run of seed 0."""
    return Outcome(row=row, seed=0, status="done", folder=folder, workdir=workdir, **more)

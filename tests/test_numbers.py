"""Numbers at the edge: each run ends well, or with one line; what was saved is finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from diffmic_jax import api
from diffmic_jax.cli.process import run_command
from diffmic_jax.training.checkpoint import Checkpoints
from tests import tiny

pytestmark = pytest.mark.slow

ALL = {"train": (4, 4, 4), "validation": (2, 2, 2), "test": (2, 2, 2)}
ONE = dict.fromkeys(ALL, (1, 1, 1))


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set and a configuration; the exit status, and the end of the last line if not 0."""

    parts: Mapping[str, Sequence[int]] | None = None
    """Images of each class; None: the usual data."""
    size: int = 32
    constant: bool = False
    huge: bool = False
    changes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    status: int = 0
    line: str = ""


def rates(rate: float, **changes: object) -> dict[str, object]:
    return {"train__learning_rate": rate, "guidance__learning_rate": rate, **changes}


CASES = {
    "learning rate 1e6": Case(changes=rates(1e6), status=1, line="of step 3, is kept"),
    "learning rate 1e30": Case(changes=rates(1e30), status=1, line="there is no checkpoint yet"),
    "learning rate 1e6, skip": Case(changes=rates(1e6, train__on_nan="skip")),
    "learning rate 1e30, skip": Case(changes=rates(1e30, train__on_nan="skip")),
    "constant images": Case(ALL, constant=True),
    "one image per class": Case(ONE, changes={"train__batch_size": 3}),
    "one image per class in all": Case(
        {"train": (1, 1, 1)},
        status=2,
        line="add images, or change config.data.protocol, test_fraction or validation_fraction",
    ),
    "one class in validation": Case(ALL | {"validation": (2, 0, 0)}),
    "images of 1 px": Case(ALL, size=1),
    "images of 8 px": Case(ALL, size=8),
    "networks of 8 px": Case(changes={"data__image_size": 8, "guidance__region_size": 4}),
    "networks of 1 px": Case(changes={"data__image_size": 1, "guidance__region_size": 1}),
    "batches of one": Case(changes={"train__batch_size": 1, "train__max_steps": 40}),
    "100 classes": Case(dict.fromkeys(ALL, (1,) * 100)),
    "an image of 20,000 px": Case(
        ALL, huge=True, status=2, line="shrink it or raise config.data.max_pixels"
    ),
}


def write(root: Path, case: Case) -> Path:
    rng = np.random.default_rng(0)
    for part, counts in (case.parts or {}).items():
        for label, count in enumerate(counts):
            folder = root / part / f"class{label:03d}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (case.size, case.size, 3), np.uint8)
                pixels[...] = 128 if case.constant else pixels
                Image.fromarray(pixels).save(folder / f"{label}_{i}.png")
            if not count:
                folder.rmdir()
    if case.huge:
        huge = Image.fromarray(np.zeros((20_000, 20_000), np.uint8))
        huge.save(root / "train/class000/huge.png")
    return root


@pytest.mark.parametrize("name", CASES)
def test_a_run_at_the_edge_ends_well_or_with_one_line(tmp_path, tiny_data, capsys, name):
    case = CASES[name]
    data = write(tmp_path / "data", case) if case.parts else tiny_data
    config = tiny.make_config(data, **case.changes)
    status = run_command(lambda: api.train(config, tmp_path / "run"))
    lines = capsys.readouterr().err.splitlines()
    assert status == case.status, lines
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == bool(status)
    if status:
        assert lines[-1] == errors[0] and errors[0].endswith(case.line)
    if status == 2:
        assert not (tmp_path / "run").exists()
        return
    with Checkpoints(tmp_path / "run", "accuracy", read_only=True) as checkpoints:
        steps = checkpoints.steps
    assert bool(steps) != case.line.startswith("there is no")
    if steps:
        state = tiny.latest_state(config, tmp_path / "run")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

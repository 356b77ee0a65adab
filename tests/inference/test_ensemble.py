"""Which runs can be averaged, and what their mean has from the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffmic_jax import recipes
from diffmic_jax.errors import InputError
from diffmic_jax.inference.ensemble import Ensemble
from diffmic_jax.inference.model import Model
from diffmic_jax.method.task import Task


def run(name: str, *, classes: str = "ab", step: int = 1) -> Model:
    """A run without a network."""
    parts: Any = dict.fromkeys(("method", "mesh"))
    task, own = Task(class_names=tuple(classes)), recipes.get("v1")
    rest = {"variables": {}, "meta": {}, "fingerprint": name}
    return Model(workdir=Path(name), config=own, task=task, step=step, **parts, **rest)


def test_what_is_not_averaged_is_the_first_runs():
    one, two = run("one", step=1), run("two", step=2)
    found = Ensemble.of([one, two], Path("both"))
    assert (found.workdir, found.step, found.members) == (Path("both"), 1, (one, two))
    assert found.fingerprint != Ensemble.of([two, one], Path("both")).fingerprint
    assert Ensemble.of([one], Path("both")).members == (one,)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_runs_of_other_classes_are_not_averaged(place):
    runs = [run(f"run{i}", classes="abc" if i == place else "ab") for i in range(3)]
    refused = runs[place or 1].workdir
    with pytest.raises(InputError, match=f"^{refused} has other classes or data than run0; av"):
        Ensemble.of(runs, Path("all"))

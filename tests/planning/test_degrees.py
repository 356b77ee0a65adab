"""Classes that look like degrees are asked about."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from diffmic_jax.planning.degrees import degrees
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import Case
from tests.planning.test_rules import FEW, LAPTOP


@pytest.mark.parametrize(
    "names",
    [
        ("none", "mild", "severe"),
        ("No_DR", "Mild", "Moderate", "Severe", "Proliferative_DR"),
        ("grade 8", "grade 9", "grade 10"),
        ("0 No DR", "1 Mild", "2 Moderate"),
        ("Stage I", "Stage II", "Stage III", "Stage IV"),
    ],
)
def test_names_that_look_like_degrees(names):
    assert degrees(sorted(names)) == degrees(names[::-1]) == names


@pytest.mark.parametrize(
    "names",
    [
        ("benign", "malignant", "normal"),
        ("low", "high"),  # of two the order is of no use
        ("type 1", "type 5", "type 9"),
        ("mild", "slight", "severe"),
        ("t1n0", "t1n1", "t1n2"),
        ("a", "b", "c"),
        (),
    ],
)
def test_names_that_do_not(names):
    assert degrees(names) == ()


def test_the_plan_asks_for_their_order():
    def text(labels: str, *names: str) -> str:
        data = dataclasses.replace(FEW, classes=dict.fromkeys(names, 182), labels=labels)
        return Plan.of(Case(data=data, machine=LAPTOP, minutes=20, given={})).text

    graded = text("one of several", "1 severe", "0 mild", "2 none")
    flag = shlex.quote("--ordinal=0 mild,1 severe,2 none")
    assert graded.endswith(f"\n  the classes look like degrees: if so, give {flag}")
    for labels in ("one of several degrees", "any number of several"):
        assert "degrees: if so" not in text(labels, "mild", "none", "severe")
    assert "degrees: if so" not in text("one of several", "a", "b", "c")

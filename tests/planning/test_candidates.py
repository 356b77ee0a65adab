"""The networks of a fit, whatever the user has set of its classifier."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from diffmic_jax.planning import candidates
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import HIDDEN, Case, Machine
from tests.planning.test_rules import FEW


def plan_of(labels: str = "one of several", **given: object) -> Plan:
    """Of few images."""
    data = dataclasses.replace(FEW, labels=labels)
    machine = Machine(devices="a test", seconds=0.001)
    return Plan.of(Case(data=data, machine=machine, minutes=30, given=given))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"guidance.drop_path": 0.2},
        {"guidance.mix": "cutmix"},
        {"guidance.mix": "both"},
        {"guidance.class_weights": "deferred"},
    ],
)
def test_what_is_set_for_the_classifier_stops_no_other_network(given):
    plan = plan_of(**given)
    own = candidates.classifier(plan)
    for name, value in given.items():
        assert own.to_dict()["guidance"][name.removeprefix("guidance.")] == value
    head, diffusion = candidates.head(own, plan), candidates.diffusion(own, Path("run"))
    assert head.guidance.tune == diffusion.guidance.tune == "head"
    assert diffusion.guidance.frozen
    assert diffusion.guidance.checkpoint == "run"
    assert diffusion.denoiser.encoder
    assert diffusion.checkpoint.metric == own.checkpoint.metric
    assert diffusion.sampling.flips == own.sampling.flips


def test_the_head_of_several_labels_has_layers_unless_the_user_gives_others():
    def hidden(labels: str, **given: object) -> tuple[int, ...]:
        plan = plan_of(labels, **given)
        return candidates.head(candidates.classifier(plan), plan).guidance.hidden

    assert hidden("one of several") == ()
    assert hidden("any number of several") == HIDDEN["guidance.hidden"]
    assert hidden("any number of several", **{"guidance.hidden": ()}) == ()
    assert hidden("any number of several", **{"guidance.network": "dcg"}) == ()
    assert candidates.has_head(plan_of())
    assert not candidates.has_head(plan_of(**{"guidance.tune": "head"}))

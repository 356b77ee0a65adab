"""From a data set and minutes to a plan that can be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmic_jax import recipes
from diffmic_jax.config import Config, Data
from diffmic_jax.consistency import check_training
from diffmic_jax.data.cache import missing
from diffmic_jax.data.loader import steps_per_epoch
from diffmic_jax.data.sources import Source, open_layout, settle
from diffmic_jax.errors import InputError
from diffmic_jax.fields import specs
from diffmic_jax.method.networks import check_networks
from diffmic_jax.planning import budget, candidates
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.plan import Plan
from diffmic_jax.planning.rules import FIXED, SHARE, Case
from diffmic_jax.training.pretrained import check_named


def make_plan(given: Mapping[str, Any], minutes: float, begun: bool = False) -> Plan:
    """What the rules decide for a data set on this machine.

    Args:
      given: fields that are set, among them those of the data.
      minutes: from the start until the report is written.
      begun: a fit has begun by such a plan: whether the images can be read in time was found then.

    Raises:
      InputError: the data cannot be opened, or a field cannot have its value, alone or with them.
    """
    if not (minutes > 0 and math.isfinite(minutes)):
        raise InputError(f"--minutes={minutes:g}: give more than 0, and an end")
    if "data.fold" in given:
        raise InputError("config.data.fold: a fit trains on every fold; leave it out")
    known = {spec.name: spec for spec in specs(Config)}  # what is unknown is told below
    given = {name: known[name].typed(x) if name in known else x for name, x in given.items()}
    # Whether a validation part comes with the data decides a rule: none is cut yet.
    whole = {"data.validation_fraction": 0.0, **given}
    opened = recipes.get("strong").changed(whole).data
    layout = open_layout(opened)
    source = settle(layout, opened)
    data, here = Fingerprint.of(source), budget.machine(source)
    plan = Plan.of(Case(data=data, machine=here, minutes=minutes, given=given))
    config = candidates.classifier(plan)
    networks = [config, candidates.diffusion(config, Path())]
    if candidates.has_head(plan):
        networks.append(candidates.head(config, plan))
    for each in networks:  # now, not when its time has come
        check_training(each)
        check_networks(each)
    check_named(config)
    for fold in range(plan.members):  # as they will be cut
        own = config.changed({"data.fold": fold}).data
        source = settle(layout, own)
        if not source.splits["validation"]:
            raise InputError(
                "config.data.validation_fraction=0: a fit chooses by images that it holds out; "
                "give more, or train with `diffmic train --config=default:strong`"
            )
        steps_per_epoch(source.splits["train"], config.train.batch_size)
    if not begun:
        _check_reading(source, config.data, plan)
    return plan


def _check_reading(source: Source, data: Data, plan: Plan) -> None:
    """Refuse more images than can be read in the minutes; what is read once is kept."""
    folder = Path(data.cache_dir) if data.cache_dir else None
    count = missing(source, data.image_size, folder)
    reading = count * plan.machine.reading / 60
    if reading > SHARE * max(plan.minutes - FIXED / 60, plan.minutes / 2):
        raise InputError(
            f"to read {count:,} images takes about {reading:.0f} minutes here, and "
            f"{plan.minutes:g} are given; give --minutes={3 * math.ceil(reading)}, or name "
            "a folder or a CSV of fewer images"
        )

"""What the rules decide from a fingerprint, a machine and minutes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from diffmic_jax import recipes
from diffmic_jax.planning.fingerprint import Fingerprint
from diffmic_jax.planning.plan import Plan, read
from diffmic_jax.planning.rules import GIVEN, Case, Machine

FEW = Fingerprint(
    name="images",
    images={"train": 546, "validation": 0, "test": 234},
    classes={"benign": 306, "malignant": 147, "normal": 93},
    labels="one of several",
    groups=0,
    leaked=0,
    side=(190, 470, 719),
    aspect=(0.9, 1.2, 1.9),
    gray=1.0,
    bits=0,
    rarest=93,
)
MANY = dataclasses.replace(FEW, images={"train": 8011, "validation": 0, "test": 2004})
LAPTOP, GPU = Machine(devices="2 CPU cores", seconds=0.03), Machine(devices="a GPU", seconds=0.0005)


def changes(data: Fingerprint, machine: Machine, minutes: float, **given: Any) -> dict[str, Any]:
    given = {name.replace("__", "."): value for name, value in given.items()}
    plan = Plan.of(Case(data=data, machine=machine, minutes=minutes, given=given))
    assert all(decision.reason for decision in plan.decisions)
    assert len(plan.changes) == len(plan.decisions)  # no field twice
    recipes.get("strong").changed(plan.changes)  # and each is one that works
    return plan.changes


def test_few_images_are_folded_and_many_have_a_validation_part():
    few = changes(FEW, LAPTOP, 20)
    assert few["data.folds"] == 3
    assert "data.validation_fraction" not in few
    many = changes(MANY, LAPTOP, 20)
    assert "data.folds" not in many
    assert many["data.validation_fraction"] == pytest.approx(0.1)
    # A class with fewer images than folds would be missing in some.
    rare = dataclasses.replace(FEW, classes={"a": 540, "b": 4, "c": 2}, rarest=2)
    assert "data.folds" not in changes(rare, LAPTOP, 20)


def test_more_minutes_or_a_faster_machine_give_larger_images_and_then_more_folds():
    found = [changes(FEW, LAPTOP, m) for m in (2, 7, 20, 60, 200)]
    sizes = [each["data.image_size"] for each in found]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] == sizes[2] == 128 < sizes[-1] == 224
    assert [each.get("data.folds", 1) for each in found[:3]] == [1, 1, 3]
    assert changes(FEW, LAPTOP, 600)["data.folds"] == 5
    assert changes(FEW, GPU, 5)["data.image_size"] == 224


def test_images_that_take_long_to_read_leave_fewer_minutes():
    slow = dataclasses.replace(LAPTOP, reading=0.15)  # 25 minutes for all of them
    sizes = [changes(MANY, machine, 60)["data.image_size"] for machine in (LAPTOP, slow)]
    assert sizes == [128, 96]
    assert changes(FEW, slow, 20) == changes(FEW, LAPTOP, 20)  # two minutes
    told = Plan.of(Case(data=MANY, machine=slow, minutes=60, given={})).text
    assert "60 minutes, of which reading the images takes 25, are about 12 epochs" in told


def test_images_are_not_enlarged_beyond_the_next_size():
    small = dataclasses.replace(FEW, side=(28, 28, 28))
    assert changes(small, GPU, 60)["data.image_size"] == 64
    assert changes(dataclasses.replace(FEW, side=(90, 100, 110)), GPU, 60)["data.image_size"] == 128


def test_without_time_for_two_epochs_only_the_last_layer_learns():
    assert changes(MANY, LAPTOP, 20)["guidance.tune"] == "full"
    some = dataclasses.replace(FEW, images={"train": 4000, "validation": 0, "test": 1000})
    assert changes(some, LAPTOP, 2.5)["guidance.tune"] == "head"
    assert changes(some, LAPTOP, 4)["guidance.tune"] == "full"
    # Compiling and evaluation take their time from short fits as well as from long ones.
    assert changes(FEW, LAPTOP, 3)["guidance.tune"] == "full"
    for minutes in (0.5, 1.6):
        assert changes(FEW, LAPTOP, minutes)["guidance.tune"] == "head"


def test_very_many_images_need_not_all_be_seen():
    images = {"train": 84_000, "validation": 0, "test": 1_000}
    scans = dataclasses.replace(FEW, images=images, classes={"a": 50_000, "b": 34_000})
    hour, short = changes(scans, LAPTOP, 60), changes(scans, LAPTOP, 4)
    assert (hour["data.image_size"], hour["guidance.tune"]) == (128, "full")
    assert (short["data.image_size"], short["guidance.tune"]) == (64, "full")


@pytest.mark.parametrize(("images", "expected"), [(8, 4), (160, 8), (320, 16), (5000, 32)])
def test_an_epoch_has_several_steps(images, expected):
    data = dataclasses.replace(FEW, images={"train": images, "validation": 0, "test": 9})
    assert changes(data, LAPTOP, 20)["train.batch_size"] == expected


def test_rare_findings_are_not_smoothed():
    several = dataclasses.replace(FEW, labels="any number of several")
    assert changes(several, LAPTOP, 20)["guidance.label_smoothing"] == 0
    assert "guidance.label_smoothing" not in changes(FEW, LAPTOP, 20)


def test_several_labels_have_layers_on_features_that_do_not_change():
    several = dataclasses.replace(FEW, labels="any number of several")
    found = changes(several, LAPTOP, 1)
    assert found["guidance.tune"] == "head"
    assert len(found["guidance.hidden"]) == 3
    assert 0 < found["guidance.dropout"] < 1
    assert changes(several, LAPTOP, 1, guidance__hidden=(8,))["guidance.hidden"] == (8,)
    assert "guidance.hidden" not in changes(several, LAPTOP, 1, guidance__tune="full")
    assert "guidance.hidden" not in changes(several, LAPTOP, 20)
    assert "guidance.hidden" not in changes(FEW, LAPTOP, 1)


def test_checkpoints_are_not_closer_than_they_are_worth():
    found = changes(FEW, LAPTOP, 20)  # 364 of 546 images in 22 steps
    assert found["checkpoint.every_steps"] == 5 * 22
    assert "checkpoint.every_steps" not in changes(MANY, LAPTOP, 20)


def test_wide_images_are_padded():
    assert changes(FEW, LAPTOP, 20)["data.fit"] == "crop"
    for aspect in (1.78, 0.56):
        wide = dataclasses.replace(FEW, aspect=(aspect, aspect, aspect))
        assert changes(wide, LAPTOP, 20)["data.fit"] == "letterbox"


def test_what_the_user_has_set_stays():
    found = changes(FEW, LAPTOP, 20, data__image_size=224, data__flip="none")
    assert found["data.image_size"] == 224
    assert found["data.flip"] == "none"
    assert found.get("data.folds", 1) == 1  # there is no time for three at this size


def test_a_validation_part_that_is_asked_for_is_cut():
    assert "data.folds" not in changes(FEW, LAPTOP, 20, data__validation_fraction=0.2)


def test_a_validation_part_that_came_with_the_data_is_kept():
    data = dataclasses.replace(MANY, images={"train": 7000, "validation": 900, "test": 2004})
    assert "data.validation_fraction" not in changes(data, LAPTOP, 20)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    given = {"data.class_names": ("a", "b"), "data.root": "photos"}
    plan = Plan.of(Case(data=FEW, machine=LAPTOP, minutes=20, given=given))
    plan = dataclasses.replace(plan, share=3.5)
    assert read(tmp_path) is None
    plan.write(tmp_path)
    assert read(tmp_path) == plan
    assert plan.given == given
    assert [each.field for each in plan.decisions if each.reason == GIVEN] == list(given)
    assert "546 train" in plan.text
    assert "data.folds = 3: 546 images are few" in plan.text


def test_an_audit_that_takes_long_is_left_out_and_the_plan_says_so():
    def plan(minutes: float) -> Plan:
        slow = dataclasses.replace(LAPTOP, reading=0.03)
        return Plan.of(Case(data=MANY, machine=slow, minutes=minutes, given={}))

    assert plan(60).audit == pytest.approx(0.033 * 10_015)
    assert "no audit" not in plan(60).text
    assert plan(30).audit == 0
    assert "no audit of the images, which takes 6 minutes" in plan(30).text


def test_where_mirror_images_differ_no_answer_is_a_mean_over_them():
    assert changes(FEW, LAPTOP, 20, data__flip="none")["sampling.flips"] == "none"
    assert "sampling.flips" not in changes(FEW, LAPTOP, 20)
    both = changes(FEW, LAPTOP, 20, data__flip="none", sampling__flips="both")
    assert both["sampling.flips"] == "both"


def test_two_folds_are_too_few_and_given_folds_share_the_minutes():
    assert changes(FEW, LAPTOP, 30)["data.folds"] == 3
    assert "data.folds" not in changes(FEW, LAPTOP, 30, data__image_size=192)
    alone, shared = (changes(FEW, LAPTOP, 60, data__folds=n)["data.image_size"] for n in (0, 5))
    assert shared < alone

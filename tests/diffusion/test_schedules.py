"""Noise schedules against the reference's tables and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from diffmic_jax.diffusion.schedules import KINDS, make_schedule
from tests.helpers import check


@pytest.mark.parametrize("num_steps", [100, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_golden(golden, kind, num_steps):
    arrays = golden("schedules")
    beta, alpha_bar = (arrays[f"{kind}_T{num_steps}_{name}"] for name in ("betas", "alphas_bar"))
    for precision in ("public", "float64"):
        ours = make_schedule(kind, num_steps, 1e-4, 0.02, precision)
        what = f"schedule {kind} T{num_steps} {precision}"
        check(f"{what} beta", ours.beta, beta, 1e-7)
        # The reference's float32 alpha costs up to 6e-7 of the running product.
        check(
            f"{what} alpha_bar", ours.alpha_bar, alpha_bar, 2e-7 if precision == "public" else 2e-6
        )


def test_golden_other_range(golden):
    beta = golden("schedules")["linear_default_T1000_betas"]
    check(
        "schedule linear 1e-5..1e-2 beta",
        make_schedule("linear", 1000, 1e-5, 1e-2).beta,
        beta,
        1e-8,
    )


@pytest.mark.parametrize("name", ["alphas", "alphas_bar_sqrt", "one_minus_alphas_bar_sqrt"])
def test_golden_derived_tables(golden, name):
    schedule = make_schedule(precision="public")
    ours = {
        "alphas": schedule.alpha,
        "alphas_bar_sqrt": np.sqrt(schedule.alpha_bar),
        "one_minus_alphas_bar_sqrt": np.sqrt(1 - schedule.alpha_bar),
    }
    assert ours[name].dtype == np.float32
    check(
        f"schedule linear public {name}",
        ours[name],
        golden("schedules")[f"linear_T1000_{name}"],
        2e-7,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_is_a_schedule(kind):
    schedule = make_schedule(kind, 50)
    assert schedule.num_train_steps == 50
    assert schedule.alpha_bar.dtype == np.float64
    assert np.all((schedule.beta > 0) & (schedule.beta <= 1))
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    np.testing.assert_allclose(schedule.alpha, 1 - schedule.beta, rtol=1e-15)


def test_jsd_loses_the_label_at_an_even_pace():
    np.testing.assert_allclose(
        make_schedule("jsd", 10).alpha_bar, 1 - np.arange(1, 11) / 10, atol=1e-15
    )


def test_float64_keeps_the_digits_that_public_loses():
    exact, public = make_schedule(), make_schedule(precision="public")
    assert 1 - exact.alpha_bar[0] == pytest.approx(1e-4, rel=1e-12)
    assert 1e-5 < abs(float(1 - public.alpha_bar[0]) / 1e-4 - 1) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cubic"}, "cubic.*choose one of linear"),
        ({"precision": "float16"}, "float16.*choose float64 or public"),
        ({"num_steps": 1}, "at least 2 steps, not 1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**arguments)

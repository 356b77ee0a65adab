"""The comparison with PyTorch: what it prints, and that both sides have the same networks."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from diffmic_jax import recipes
from diffmic_jax.diffusion.process import posterior_coefficients
from diffmic_jax.diffusion.schedules import make_schedule
from diffmic_jax.method.build import build
from diffmic_jax.method.state import init_variables
from diffmic_jax.method.task import Task

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def ours(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("against_torch")


@pytest.fixture
def theirs(monkeypatch) -> Any:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("torch_reference")


def test_medians_and_what_pytorch_takes_over_what_we_take(ours):
    found = ours.summary({"jax": [(1, 2), (9, 4), (2, 3)], "eager": [(4, 6), (1, 1), (9, 9)]})
    assert found["seconds_per_image"]["jax"] == {"cpu": 2, "wall": 3}
    assert found["torch_over_ours"] == {"eager": {"cpu": 2, "wall": 2}}


@pytest.mark.whole
@pytest.mark.parametrize("program", ["lite0-train", "resnet18-infer"])
def test_a_program_takes_a_turn_for_every_line(ours, program, monkeypatch, capsys):
    flags = [f"--programs={program}", "--batch=2", "--size=32", "--seconds=0", "--serve=jax"]
    monkeypatch.setattr(sys, "argv", ["against_torch.py", *flags])
    monkeypatch.setattr(sys, "stdin", ["go\n", "go\n"])
    ours.main()
    turns = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(turns) == 2 and min(min(turn) for turn in turns) > 0


def test_the_networks_of_pytorch_have_as_many_parameters(theirs):
    config = recipes.get("v1_public").changed({"data.image_size": 96})
    method = build(config, Task(class_names=tuple("abcdefg")), steps_per_epoch=1)
    params = jax.eval_shape(partial(init_variables, method), jax.random.key(0))["params"]
    for network, own in (("guidance", theirs.Guidance()), ("denoiser", theirs.Denoiser())):
        count = sum(leaf.size for leaf in jax.tree.leaves(params[network]))
        assert sum(each.numel() for each in own.parameters()) == count, network


def test_the_chain_of_pytorch_is_ours(theirs):
    chain, schedule = theirs.Diffusion(), make_schedule()
    for t in (0, 1, 59):
        expected = posterior_coefficients(schedule, np.array(t), np.array(t - 1))
        of_y0, of_y, of_mean, noise, root = chain.coefficients(t)
        np.testing.assert_allclose(
            (of_y0, of_y, noise**2), np.array(expected)[[0, 1, 3]], rtol=1e-4
        )
        np.testing.assert_allclose(of_mean, expected.prior_mean, atol=1e-6)
        np.testing.assert_allclose(root**2, schedule.alpha_bar[t], rtol=1e-6)


@pytest.mark.parametrize("program", ["resnet18-train", "resnet50-infer", "v1-predict", "v1-train"])
def test_a_program_of_pytorch_runs(theirs, program, monkeypatch):
    monkeypatch.setattr(theirs, "FEATURES", 16)
    theirs.program(program, "channels_last", 2, 96)()

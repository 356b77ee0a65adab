"""The benchmarks run and print their keys; how long anything takes is not looked at."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALLEST = (
    *("--size=32", "--batch=2", "--repeat=1", "--json"),
    *("--set=model.width=8", "--set=model.stem=small"),
    *("--set=guidance.backbone=tiny", "--set=denoiser.encoder=tiny"),
    *("--set=guidance.num_regions=2", "--set=guidance.region_size=16"),
    "--set=denoiser.feature_dim=16",
)
COMMON = {
    "seconds_per_image",
    "floor_seconds_per_image",
    "seconds_per_step",
    "images_per_second",
    "flops_share",
    "bytes_share",
    "peak_share",
    "peak_memory_bytes",
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Function from flags to the lines that the benchmark prints."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def start(*flags: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
        importlib.import_module("benchmark").main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return start


@pytest.mark.parametrize("recipe", ["v1", "v2"])
def test_prediction(run, recipe):
    flags = ["--mode=predict", f"--recipe={recipe}", "--steps=2", "--samples=2", *SMALLEST]
    (found,) = run(*flags, "--set=denoiser.local_encoder=tiny")
    assert found.keys() >= COMMON | {"guidance_seconds", "encoder_seconds", "fold_seconds"}
    assert (found["mode"], found["recipe"], found["steps"]) == ("predict", recipe, 2)
    assert found["peak_share"] > 0 and found["flops"] > 0


def test_training(run):
    (found,) = run("--mode=train", *SMALLEST)
    parts = {f"{part}_seconds" for part in ("guidance", "denoiser", "optimizer")}
    assert found.keys() >= COMMON | parts
    assert found["seconds_per_step"] == pytest.approx(2 * found["seconds_per_image"], rel=0.01)


@pytest.mark.parametrize("first", ["predict", "train"])
def test_first_results(run, first):
    (found,) = run("--mode=compile", f"--first={first}", "--steps=2", *SMALLEST)
    assert found.keys() >= {"measurement", "init_seconds", "first_seconds", "peak_memory_bytes"}
    assert found["measurement"] == f"first_{first}"


def test_input(run):
    flags = ["--mode=input", "--size=16", "--batch=2", "--steps=2", "--images=4", "--json"]
    found = run(*flags, "--jpeg=32,32", "--workers=1")
    measured = ["decode", "cache", "cache+augment", *["augment"] * 3]
    assert [line["measurement"] for line in found] == measured
    assert all(line["images_per_second"] > 0 for line in found)

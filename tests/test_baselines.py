"""Classifiers without diffusion learn the phantom; minutes on two cores, so on demand:

scripts/test -m slow
"""

from __future__ import annotations

import json

import pytest

from diffmic_jax import api, configfile
from studies.table1_ham_aptos import LOSSES

# From random weights a transformer learns slowly; at 32 px its epochs are short.
TRANSFORMER = {"guidance.learning_rate": 1e-4, "data.image_size": 32, "train.epochs": 8}


BASELINES = {
    **LOSSES,  # of a ResNet18
    "resnet50": {"guidance.backbone": "resnet50", "train.epochs": 10},
    "vit": TRANSFORMER | {"guidance.backbone": "vit_s16", "train.epochs": 16},
    "swin": TRANSFORMER | {"guidance.backbone": "swin_t"},
    "pvt": TRANSFORMER | {"guidance.backbone": "pvt_v2_b2", "train.epochs": 4},
    "gmic": {"recipe": "gmic"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_above_chance(tmp_path, name):
    changes = dict(BASELINES[name])
    config = configfile.load(f"quickstart:{changes.pop('recipe', 'classifier')}")
    short = {"guidance.warmup_epochs": 0, "train.epochs": 5, "eval.bootstrap": 0}
    api.train(config.changed(short | changes), tmp_path / "run")
    scores = json.loads((tmp_path / "run/eval/test/metrics.json").read_text())
    # Chance is 0.25, with a standard deviation of 0.021 for 420 images.
    assert scores["accuracy"] > 0.35

"""What a run trains on is what its configuration says."""

from __future__ import annotations

import contextlib

import jax
import numpy as np

from diffmic_jax.data import transforms
from diffmic_jax.data.order import Balanced
from diffmic_jax.training.state import Purpose
from tests.tiny import make_config, open_run


def test_batches_are_drawn_and_augmented_as_the_configuration_says(tiny_data, tmp_path):
    changes = {"data__balance": 0.5, "data__crop": 0.5, "data__augmentation": "trivial"}
    run = open_run(make_config(tiny_data, "classifier", **changes), tmp_path)
    examples = run.dataset.examples["train"]
    with contextlib.closing(run.batches(4, examples)) as batches:
        batch = next(batches)
    order = Balanced(label=examples.label, seed=run.config.seed, balance=0.5, size=24)
    index = order.epoch(1)[8:16]  # of three steps an epoch
    np.testing.assert_array_equal(batch.index, index)
    np.testing.assert_array_equal(batch.label, examples.label[index])
    key = jax.random.fold_in(run.key(Purpose.AUGMENT), 4)
    augment = jax.jit(transforms.augment, static_argnums=3)
    expected = augment(examples.images(index), index, key, run.config.data)
    np.testing.assert_array_equal(batch.image, expected)

"""What a run trains on is what its configuration says."""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import transforms
from diffmic_jax.data.order import Balanced
from diffmic_jax.errors import InputError
from diffmic_jax.training.run import check_classes
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


def test_a_run_keeps_the_scale_of_its_gray_images(tmp_path):
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            values = np.full((8, 8), 100 * i + 1000, np.uint16)  # up to 2900: 12 bits
            Image.fromarray(values).save(tmp_path / f"data/{name}/{i}.png")
    changes = {"data__cache_dir": str(tmp_path / "cache")}
    run = open_run(make_config(tmp_path / "data", "classifier", **changes), tmp_path / "run")
    assert run.meta()["gray_bits"] == run.dataset.gray_bits == 12
    check_classes(tmp_path, run.meta(), run.dataset)
    with pytest.raises(InputError, match="was trained on gray images of 16 bits, not 12"):
        check_classes(tmp_path, run.meta() | {"gray_bits": 16}, run.dataset)

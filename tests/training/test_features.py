"""A head that learns from features which a frozen trunk has computed once."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.config import Config
from diffmic_jax.data import transforms
from diffmic_jax.data.loader import Batching
from diffmic_jax.errors import InputError, Interrupted
from diffmic_jax.evaluation.run import validator
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.train_step import guide
from diffmic_jax.training import features
from diffmic_jax.training.features import FeatureCache, of_random_views
from diffmic_jax.training.run import TrainingRun
from diffmic_jax.training.state import Purpose, TrainState, run_key
from diffmic_jax.types import Batch
from tests import tiny
from tests.training.test_loop import before_step, logged_steps, press_ctrl_c

HEAD: dict[str, Any] = {
    "guidance__tune": "head",
    "guidance__views": 3,
    "guidance__warmup_epochs": 0,
    "guidance__learning_rate": 0.05,
    "train__epochs": 3,
}


def head_config(tiny_data: Path, cache: Path, **changes: object) -> Config:
    changes = HEAD | {"data__cache_dir": str(cache)} | changes
    return tiny.make_config(tiny_data, "classifier", **changes)


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory) -> TrainingRun:
    config = head_config(tiny_data, tmp_path_factory.mktemp("features"))
    return tiny.open_run(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def state(run) -> TrainState:
    return run.initial_state()[0]


def files(run: TrainingRun) -> set[str]:
    return {path.name for path in Path(run.config.data.cache_dir).glob("features/*.npy")}


def test_each_view_has_the_features_of_the_image_augmented(run, state):
    images = run.dataset.examples["train"]
    found = run.inputs("train", state).images(np.arange(len(images)))
    pixels, index = images.images(np.arange(len(images))), np.arange(len(images))

    @jax.jit
    def expected(pixels: jax.Array) -> jax.Array:
        image = run.method.preprocess.normalise(pixels)
        batch = Batch(image, index, np.ones(len(index)))
        return guide(run.method, state.variables(), batch).features

    assert found.shape == (len(images), 3, 16)
    np.testing.assert_allclose(found[:, 0], expected(pixels), rtol=1e-4, atol=1e-6)
    for view in (1, 2):
        key = jax.random.fold_in(run_key(0, Purpose.VIEWS), view)
        augmented = transforms.augment(pixels, index, key, own=run.config.data)
        # A pixel may be rounded the other way.
        np.testing.assert_allclose(found[:, view], expected(augmented), rtol=1e-3, atol=1e-4)
    assert np.abs(found[:, 1] - found[:, 2]).max() > 1e-3


def test_a_classifier_takes_features_for_images(run, state):
    pixels = run.dataset.examples["validation"].images(np.arange(4))
    image = run.method.preprocess.normalise(jnp.asarray(pixels))

    @jax.jit
    def both(image: jax.Array) -> tuple[Any, Any]:
        of_image = guide(run.method, state.variables(), Batch(image, image, image))
        seen = of_image.features
        return of_image, guide(run.method, state.variables(), Batch(seen, seen, seen))

    of_image, of_features = both(image)
    np.testing.assert_allclose(of_features.fused, of_image.fused, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(of_features.features, of_image.features)


def fresh(run: TrainingRun, **changes: object) -> TrainingRun:
    """The run with other fields, which knows of no features yet."""
    config = run.config.changed({name.replace("__", "."): x for name, x in changes.items()})
    method = build(config, run.dataset.task, steps_per_epoch=3, counts=run.dataset.counts)
    return dataclasses.replace(run, config=config, method=method)


@pytest.mark.parametrize(("flips", "copies"), [("none", 1), ("both", 4)])
def test_validation_on_features_is_that_on_images(run, state, monkeypatch, flips, copies):
    run = fresh(run, sampling__flips=flips)
    on_features = validator(run)(state)
    assert run.inputs("validation", state).images(np.arange(2)).shape == (2, copies, 16)
    monkeypatch.setattr(Method, "on_features", False)
    on_images = validator(run)(state)
    assert on_features == pytest.approx(on_images, rel=1e-4)


def test_features_are_computed_once_for_all_runs_of_the_same_trunk(run, state, monkeypatch):
    for part in ("train", "validation"):
        run.inputs(part, state)
    before = files(run)
    monkeypatch.setattr(FeatureCache, "_compute", None)
    # What only the head depends on.
    other = fresh(run, guidance__learning_rate=1.0, guidance__mix="mixup")
    for part in ("train", "validation"):
        found = other.inputs(part, state).images(np.arange(4))
        np.testing.assert_array_equal(found, run.inputs(part, state).images(np.arange(4)))
    assert files(run) == before


def test_features_follow_all_that_they_depend_on(run, state):
    run.inputs("train", state)
    run.inputs("validation", state)
    before = files(run)
    params = jax.tree.map(jnp.array, state.params)
    params["guidance"]["global_trunk"]["conv1"]["kernel"] *= 1.01
    for number, (other, new) in enumerate(
        (
            (fresh(run), state.replace(params=params)),
            (fresh(run, data__rotation=5.0), state),
            (fresh(run, guidance__views=4), state),
        ),
        1,
    ):
        other.inputs("train", new)
        assert len(files(run)) == len(before) + number
    # Runs of other seeds share them.
    fresh(run, seed=1).inputs("train", state)
    # The images as they are do not depend on the augmentation.
    fresh(run, seed=2, data__rotation=6.0).inputs("validation", state)
    assert len(files(run)) == len(before) + 3
    examples = run.dataset.examples["train"]
    fewer = dataclasses.replace(examples, records=examples.records[:20], rows=examples.rows[:20])
    cache = FeatureCache(
        config=run.config,
        method=run.method,
        folder=Path(run.config.data.cache_dir),
    )
    assert cache.views(fewer, state.variables()).images(np.arange(20)).shape == (20, 3, 16)
    assert len(files(run)) == len(before) + 4


def test_a_damaged_file_is_computed_again(tiny_data, tmp_path, state):
    def found() -> np.ndarray:
        run = tiny.open_run(head_config(tiny_data, tmp_path / "cache"), tmp_path / "run")
        return run.inputs("train", state).images(np.arange(tiny.TRAIN))

    before = found()
    (path,) = (tmp_path / "cache/features").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(found(), before)


def test_a_folder_that_cannot_be_written_is_named(run, state, tmp_path):
    (tmp_path / "features").write_text("in the way")
    cache = FeatureCache(config=run.config, method=run.method, folder=tmp_path)
    with pytest.raises(InputError, match="config.data.cache_dir: .* cannot be used"):
        cache.copies(run.dataset.examples["train"], state.variables())


def test_the_view_of_an_image_depends_on_seed_and_step_alone():
    rows = np.arange(8)

    def batches(batching: Batching, steps: range, seed: int = 0) -> list[np.ndarray]:
        def stream():
            for _ in steps:
                view = np.tile(np.arange(5.0), (8, 1))[batching.rows, :, None]
                yield Batch(view, rows[batching.rows], np.ones(8))

        found = of_random_views(stream(), batching, seed, steps.start)
        return [batch.image[:, 0] for batch in found]

    whole = batches(Batching(batch_size=8), range(40))
    assert whole[0].shape == (8,)
    assert len({tuple(each) for each in whole}) > 35
    assert set(np.concatenate(whole)) == set(range(5))
    np.testing.assert_array_equal(batches(Batching(batch_size=8), range(30, 40)), whole[30:])
    shards = [
        batches(Batching(batch_size=8, shard_index=i, shard_count=2), range(40)) for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), whole)
    assert np.any(np.stack(batches(Batching(batch_size=8), range(40), 1)) != np.stack(whole))


DIFFUSION = {
    "denoiser__encoder": "guidance",
    "denoiser__conditioning": "dual",
    "guidance__hidden": (8,),
    "sampling__num_steps": 3,
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="classifier"),
        pytest.param(DIFFUSION, id="diffusion", marks=pytest.mark.whole),
    ],
)
def test_a_head_learns_from_features_as_from_images(tiny_data, tmp_path, monkeypatch, changes):
    """Where an image has one view, which is the image itself."""
    plain = {"guidance__views": 1, "data__flip": "none", "data__rotation": 0.0, "train__ema": True}
    config = head_config(tiny_data, tmp_path / "cache", **plain, train__epochs=6, **changes)
    tiny.train(config, tmp_path / "features")
    monkeypatch.setattr(Method, "on_features", False)
    tiny.train(config, tmp_path / "images")
    # Not the parameters: a bias before a normalisation has no gradient but rounding.
    ours, theirs = (logged_losses(tmp_path / name) for name in ("features", "images"))
    assert ours.keys() >= ({"guidance_loss", "mse"} if changes else {"guidance_loss"})
    for name, losses in ours.items():
        np.testing.assert_allclose(losses, theirs[name], rtol=1e-3, err_msg=name)
    assert ours["guidance_loss"][-1] < 0.8 * ours["guidance_loss"][0]


def logged_losses(workdir: Path) -> dict[str, list[float]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name in ("guidance_loss", "mse", "mmd_1", "mmd_2")]
    return {name: [float(row[name]) for row in rows] for name in names}


def test_a_head_that_was_stopped_ends_like_one_that_was_not(tiny_data, tmp_path, monkeypatch):
    config = head_config(tiny_data, tmp_path / "cache", guidance__mix="mixup", train__ema=True)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    api.train(config, whole)
    monkeypatch.setattr(FeatureCache, "_compute", None)  # they are there
    for step in (2, 4):
        with monkeypatch.context() as patch:
            before_step(patch, {step}, press_ctrl_c)
            with pytest.raises(Interrupted, match=f"stopped after step {step} of 9"):
                api.train(config, parts)
    api.train(config, parts)
    tiny.assert_same(tiny.latest_state(config, parts), tiny.latest_state(config, whole))
    assert logged_steps(parts) == logged_steps(whole)
    # One that has ended needs no features.
    shutil.rmtree(tmp_path / "cache/features")
    tiny.train(config, parts)
    scores = Path("eval/test/metrics.json")
    assert (parts / scores).read_bytes() == (whole / scores).read_bytes()


def test_the_width_is_that_of_the_trunk(run):
    assert features.width(run.method) == 16
    assert features.Zeros((3, 16))(np.arange(5)).shape == (5, 3, 16)

"""Images unlike the training images, by their features and through a whole run."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.errors import InputError
from diffmic_jax.inference import ood
from tests import tiny


def cloud(count: int, seed: int, centre: float = 3.0) -> np.ndarray:
    """Features around one direction in 20 dimensions."""
    noise = np.random.default_rng(seed).standard_normal((count, 20))
    return np.float32(noise + centre * (np.arange(20) < 5))


def test_the_score_is_the_distance_to_the_tenth_nearest():
    train, new = cloud(40, 0), cloud(3, 1)
    detector = ood.fit(train, cloud(19, 2))
    assert detector is not None
    scaled = [(x - train.mean(axis=0)) / train.std(axis=0) for x in (new, train)]
    distances = np.sqrt(np.square(scaled[0][:, None] - scaled[1][None]).mean(axis=-1))
    np.testing.assert_allclose(detector.scores(new), np.sort(distances)[:, 9], atol=1e-4)


def test_each_feature_counts_on_its_own_scale():
    units = np.float32(10.0 ** np.arange(-10, 10))
    one, other = (
        ood.fit(scale * cloud(40, 0), scale * cloud(19, 2)) for scale in (np.ones(20), units)
    )
    assert one is not None and other is not None
    np.testing.assert_allclose(one.scores(cloud(3, 1)), other.scores(units * cloud(3, 1)), 1e-3)


def test_a_feature_that_never_changed_does_not_hide_one_that_does_now():
    constant = np.zeros(20)
    constant[3:] = 1
    detector = ood.fit(constant * cloud(40, 0), constant * cloud(19, 1))
    assert detector is not None
    new = constant * cloud(2, 2)
    assert detector.is_familiar(new).all()
    assert not detector.is_familiar(new + 0.5 * (constant == 0)).any()


def test_one_in_twenty_of_the_same_kind_is_an_alarm_and_all_of_another():
    detector = ood.fit(cloud(500, 0), cloud(400, 1))
    assert detector is not None
    alarms = 1 - detector.is_familiar(cloud(4000, 2)).mean()
    assert alarms == pytest.approx(0.05, abs=0.025)
    assert detector.is_familiar(cloud(100, 3, centre=-3.0)).mean() == 0
    assert detector.is_familiar(np.zeros((1, 20), np.float32)).mean() == 0


def test_few_validation_images_give_no_detector():
    assert ood.fit(cloud(40, 0), cloud(18, 1)) is None
    few = ood.fit(cloud(4, 0), cloud(19, 1))
    assert few is not None and np.isfinite(few.scores(cloud(2, 2))).all()


def test_the_images_that_are_kept_are_drawn_once_and_for_all():
    np.testing.assert_array_equal(ood.chosen(5), np.arange(5))
    kept = ood.chosen(10_000)
    assert len(set(kept.tolist())) == ood.KEPT and kept[-1] > 9_900
    np.testing.assert_array_equal(kept, ood.chosen(10_000))


def test_a_detector_belongs_to_a_checkpoint(tmp_path):
    assert ood.read(tmp_path, 3) is None
    detector = ood.fit(cloud(30, 0), cloud(40, 1))
    assert detector is not None
    ood.write(tmp_path, detector, 3)
    assert ood.read(tmp_path, 4) is None
    found = ood.read(tmp_path, 3)
    assert found is not None
    new = cloud(50, 2)
    np.testing.assert_allclose(found.scores(new), detector.scores(new), atol=2e-3)
    assert found.threshold == detector.threshold


@pytest.mark.parametrize("damage", [lambda whole: whole[:100], lambda whole: b"PK\x03\x04"])
def test_a_damaged_detector_is_named(tmp_path, damage):
    detector = ood.fit(cloud(30, 0), cloud(40, 1))
    assert detector is not None
    ood.write(tmp_path, detector, 3)
    path = tmp_path / ood.FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="ood.npz: is no detector"):
        ood.read(tmp_path, 3)


@pytest.mark.parametrize("part", ["features", "centre", "scale"])
def test_arrays_that_do_not_belong_together_are_no_detector(tmp_path, part):
    detector = ood.fit(cloud(30, 0), cloud(40, 1))
    assert detector is not None
    fewer = {part: getattr(detector, part)[: 0 if part == "features" else 7]}
    ood.write(tmp_path, dataclasses.replace(detector, **fewer), 3)
    with pytest.raises(InputError, match=r"ood.npz: is no detector \(features of shape \("):
        ood.read(tmp_path, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A classifier of coloured squares, with enough of them in validation."""
    root = tmp_path_factory.mktemp("coloured")
    for seed, (part, count) in enumerate({"train": 8, "validation": 8, "test": 10}.items()):
        tiny.write_images(root / part, count, seed)
    changes = {"guidance__warmup_epochs": 0, "train__epochs": 1, "data__flip": "none"}
    config = tiny.make_config(root, "classifier", **changes)
    workdir = tmp_path_factory.mktemp("run") / "w"
    api.train(config, workdir)
    return workdir


def test_a_run_knows_what_its_images_look_like(run, tmp_path):
    scores = json.loads((run / "eval/test/metrics.json").read_text())
    assert 0 <= scores["unfamiliar"] <= 0.35
    own = sorted(
        Path(json.loads((run / "config.json").read_text())["data"]["root"]).glob("test/*/*")
    )
    black = np.zeros((40, 40, 3), np.uint8)
    found = api.load(run).predict([*own, black])
    assert found.in_distribution is not None
    *usual, dark = found.in_distribution.tolist()
    assert not dark and 1 - np.mean(usual) == pytest.approx(scores["unfamiliar"])
    folder = tmp_path / "new"
    folder.mkdir()
    shutil.copy(own[usual.index(True)], folder / "a.png")
    assert (
        cli.main(["predict", f"--workdir={run}", f"--images={folder}", f"--out={tmp_path}/p.csv"])
        == 0
    )
    with (tmp_path / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["in_distribution"] == "yes"

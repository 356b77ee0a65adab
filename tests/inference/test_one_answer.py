"""An image has one answer, whichever way it is asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffmic_jax import api
from diffmic_jax.cli import main as cli
from diffmic_jax.inference.load import load
from diffmic_jax.serve.images import ImageClassifier
from tests import tiny


def test_every_way_to_a_prediction_gives_the_same(trained, tiny_data, tmp_path):
    evaluated = tiny.read_predictions(trained / "eval/test")
    paths = sorted((tiny_data / "test").rglob("*.png"))
    chosen = [paths[5], paths[0], paths[5]]
    classifier = api.load(trained)
    ways = {
        "in Python": classifier.predict(chosen).probabilities,
        "alone": np.concatenate([classifier.predict(path).probabilities for path in chosen]),
        "as arrays": classifier.predict([np.asarray(Image.open(p)) for p in chosen]).probabilities,
    }
    argv = [
        f"--workdir={trained}",
        f"--images={tiny_data / 'test'}",
        f"--out={tmp_path}/predictions.csv",
    ]
    assert cli.main(["predict", *argv]) == 0
    folder = tiny.read_predictions(tmp_path)
    names = [path.relative_to(tiny_data / "test").as_posix() for path in chosen]
    ways["a folder"] = np.array([folder[name] for name in names])
    page = ImageClassifier(load(trained))
    ways["the page"] = np.concatenate(
        [page.classify(path.read_bytes(), path.name)[0].probabilities for path in chosen]
    )
    assert cli.main(["export", f"--workdir={trained}", f"--out={tmp_path / 'e.stablehlo'}"]) == 0
    ways["exported"] = api.load(tmp_path / "e.stablehlo").predict(chosen).probabilities
    first = next(iter(evaluated))
    prefix = "test/" if first.startswith("test/") else ""
    expected = np.array([evaluated[prefix + name] for name in names])
    for name, found in ways.items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_deep_gray_has_the_same_answer_alone_and_among_others(trained, tmp_path):
    """Of a training on images of eight bits, which has no scale for more."""
    rng = np.random.default_rng(0)
    for name, top in (("ten", 1000), ("sixteen", 65000)):
        pixels = rng.integers(0, top, (40, 40)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    classifier = api.load(trained)
    together = classifier.predict(tmp_path)
    assert together.ids == ["sixteen.png", "ten.png"]
    for name, p in zip(together.ids, together.probabilities, strict=True):
        alone = classifier.predict(tmp_path / name).probabilities[0]
        np.testing.assert_allclose(p, alone, atol=1e-6)
    page = ImageClassifier(load(trained))
    shown = page.classify((tmp_path / "ten.png").read_bytes(), "ten.png")[0].probabilities
    np.testing.assert_allclose(shown[0], together.probabilities[1], atol=1e-5)

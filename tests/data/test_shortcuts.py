from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffmic_jax.data import shortcuts, views
from diffmic_jax.data.audit import audit
from diffmic_jax.data.audit_text import summary
from diffmic_jax.data.images import Decoded
from tests.data.test_audit import PARTS, make_source


def noise(seed: int, height: int = 40, width: int = 40, border: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(40, 220, (height, width, 3), np.uint8)
    pixels[:border] = 7
    return pixels


def source_of(draw, n: int = 60):
    """Half of the images for training; `draw(i, label)` is an image of label i % 3."""
    images = [(PARTS[i // 3 % 2 * 2], draw(i, i % 3), i % 3) for i in range(n)]
    return make_source(images)


def told(report, group: str) -> list[str]:
    return [*report["tells"][group]["classes"]]


@pytest.mark.parametrize(
    ("draw", "group", "text"),
    [
        (lambda i, c: noise(i, 40 + 8 * (c == 1)), "size", "! b can be told by size alone: 20 of"),
        (lambda i, c: noise(i, border=9 * (c == 1)), "border", "! b can be told by even borders"),
    ],
)
def test_a_class_that_can_be_told_without_looking_is_named(draw, group, text):
    report = audit(source_of(draw), progress=False)
    assert told(report, group) == ["b"] == told(report, "together")
    found = report["tells"][group]["classes"]["b"]
    assert found == {"found": 20, "images": 20, "others": 0}
    assert text in summary(report)
    # A tree on it beats pixels of noise, and both are measured on the test images.
    rows = report["baselines"]
    assert rows["trained_on"] == 30 and len(rows["pixels"]["predictions"]) == 30
    assert rows["metadata"]["accuracy"] > rows["majority"]["accuracy"] == pytest.approx(1 / 3)


def test_a_class_is_told_by_its_mode():
    source = source_of(lambda i, c: noise(i))
    read = source.read
    source = replace(source, read=lambda r: Decoded(read(r).pixels, "RGB" if r.label else "L"))
    report = audit(source, progress=False)
    assert told(report, "form") == ["a"]
    assert report["forms"]["a"]["mode"] == "L" and report["forms"]["b"]["mode_share"] == 1


def test_images_that_differ_in_nothing_but_pixels_tell_nothing():
    report = audit(source_of(lambda i, c: noise(i)), progress=False)
    assert {*report["tells"]} == {"majority"}
    assert "Size, form and border are the same in all images" in summary(report)
    report = audit(source_of(lambda i, c: noise(i, 40 + i % 2)), progress=False)
    assert not told(report, "size")
    assert "No class can be told by size, form or border: a tree" in summary(report)


def test_pixels_that_show_the_class_are_learned_from_training_alone():
    report = audit(source_of(lambda i, c: noise(i) // 4 + 50 * c), progress=False)
    found = report["baselines"]["pixels"]
    assert (found["accuracy"], found["f1_macro"], found["auroc_macro"]) == (1, 1, 1)
    assert {*found["predictions"].values()} == {"a", "b", "c"}


def test_a_class_without_training_images_and_few_images_do_no_harm():
    images = [("train", noise(i), i % 2) for i in range(4)]
    images += [("test", noise(9 + i), i) for i in range(3)]
    report = audit(make_source(images), progress=False)
    assert report["tells"] is None
    assert report["baselines"]["pixels"]["accuracy"] <= 2 / 3
    assert report["few_to_test"]["c"] == {"images": 1, "margin": 0.45}
    assert "Classes with few test images: a (1: up to +/- 45 points)" in summary(report)


def test_several_labels_have_an_auroc_over_what_is_known():
    labels = [(i % 2, int(i % 4 < 2), -1 if i % 5 else i // 5 % 2) for i in range(60)]
    images = [
        (PARTS[i // 4 % 2 * 2], noise(i) // 2 + 60 * label[0], label)
        for i, label in enumerate(labels)
    ]
    report = audit(make_source(images, multi_label=True), progress=False)
    found = report["baselines"]
    assert report["tells"] is None and found["metadata"] is None
    assert found["pixels"]["accuracy"] is None and 0.4 < found["pixels"]["auroc_macro"] < 1


def test_the_trees_learn_from_so_many_images_at_most(monkeypatch):
    monkeypatch.setattr(shortcuts, "_MOST", 12)
    report = audit(source_of(lambda i, c: noise(i)), progress=False)
    assert report["baselines"]["trained_on"] == 12


def test_borders_are_even_lines_of_one_level():
    gray = np.random.default_rng(0).integers(0, 256, (50, 100), np.uint8)
    assert views.border_of(gray) == (0, 0, 0, 0, -1)
    gray[:10], gray[:, 80:] = 3, 3
    assert views.border_of(gray) == (0.2, 0, 0, 0.2, 3)
    assert views.border_of(np.full((4, 4), 9, np.uint8)) == (1, 1, 1, 1, 9)
    steps = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[:, None], 30, axis=1)
    assert views.border_of(steps)[0] == 2 / 25  # even lines, but no longer of one level


def test_trees_learn_from_the_parts_that_the_networks_learned_from():
    images = [(part, noise(i), i % 2) for i, part in enumerate(["train", "validation"] * 8)]
    source = make_source([*images, *(("test", noise(90 + i), i % 2) for i in range(4))])
    for learned, count in ((("train",), 8), (("train", "validation"), 16)):
        report = audit(source, progress=False, learned=learned)
        assert report["baselines"]["trained_on"] == count

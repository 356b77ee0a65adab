from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import audit, duplicates, views
from diffmic_jax.data.audit_text import summary
from diffmic_jax.data.images import Decoded
from diffmic_jax.data.sources import Record, Source
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task
from diffmic_jax.report import audited
from tests.data.opened import open_source

PARTS = ("train", "validation", "test")


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """[H, W, 3] uint8, a smooth random pattern in gray levels 30 to 220."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [
        rng.normal() * np.cos(2 * np.pi * (u * x + v * y + rng.random()))
        for u, v in rng.integers(-4, 5, (12, 2))
    ]
    pattern = np.sum(waves, axis=0)
    unit = (pattern - pattern.min()) / np.ptp(pattern)
    return np.repeat((30 + 190 * unit).astype(np.uint8)[..., None], 3, axis=-1)


def flat(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level, np.uint8)


def make_source(images: list[tuple], multi_label: bool = False) -> Source:
    """A source of (split, pixels), (split, pixels, label) or (split, pixels, label, group)."""
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for index, (split, _, *rest) in enumerate(images):
        label, group = (*rest, *(0, "")[len(rest) :])
        parts[split].append(Record(f"id{index:02d}", label, str(index), group))

    def read(record: Record) -> Decoded:
        pixels = images[int(record.path)][1]
        if pixels is None:
            raise InputError(f"{record.id}: broken; replace it")
        return Decoded(pixels, "L")

    frozen = {part: tuple(records) for part, records in parts.items()}
    task = Task(class_names=("a", "b", "c"), multi_label=multi_label)
    return Source(name="made", task=task, splits=frozen, read=read)


def run(images: list[tuple], **options) -> dict:
    """The report, after a check that it is plain JSON and can be summarised."""
    report = audit.audit(make_source(images), progress=False, **options)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert summary(report).startswith(f"made: {len(images)} images, 3 classes\n")
    return report


def found_pairs(report: dict) -> list[tuple[str, str]]:
    return [(pair["a"], pair["b"]) for pair in report["near_duplicates"]]


# Contents.


def test_images_are_counted_by_split_and_class():
    splits, labels = ["train"] * 4 + ["validation"] + ["test"] * 2, [0, 0, 0, 2, 2, 0, 1]
    report = run([(s, picture(i), labels[i]) for i, s in enumerate(splits)])
    assert report["n"] == 7
    assert report["n_by_split"] == {"train": 4, "validation": 1, "test": 2}
    assert report["counts"] == {
        "train": {"a": 3, "b": 0, "c": 1},
        "validation": {"a": 0, "b": 0, "c": 1},
        "test": {"a": 1, "b": 1, "c": 0},
    }
    text = summary(report)
    assert re.search(r"^ +train +validation +test$", text, re.M)
    assert re.search(r"^ +c +1 +1 +0$", text, re.M)


def test_an_image_with_several_labels_counts_for_each():
    labels = [(1, 1, 0), (0, 0, 0), (0, 1, 0)]
    images = [(s, picture(i), labels[i]) for i, s in enumerate(PARTS)]
    report = audit.audit(make_source(images, multi_label=True), progress=False)
    assert report["counts"] == {
        "train": {"a": 1, "b": 1, "c": 0, "none": 0},
        "validation": {"a": 0, "b": 0, "c": 0, "none": 1},
        "test": {"a": 0, "b": 1, "c": 0, "none": 0},
    }
    assert report["multi_label"] is True


def test_leaks_are_images_and_groups_of_earlier_splits():
    groups = {
        "train": ["A", "A", "B", "C", ""],
        "validation": ["A", "D", ""],
        "test": ["A", "A", "D", "E", ""],
    }
    listed = [(split, group) for split in PARTS for group in groups[split]]
    report = run([(s, picture(i), 0, group) for i, (s, group) in enumerate(listed)])
    assert report["groups_known"] is True
    assert report["leaked_images"] == 3  # A, A, D
    assert report["leaked_groups"] == 2
    assert report["leaked_validation_images"] == 1
    assert "3 of 5 test images" in summary(report)


def test_unknown_groups_are_not_reported_as_absent_leaks():
    report = run([(split, picture(i)) for i, split in enumerate(PARTS)])
    assert report["groups_known"] is False
    assert (report["leaked_images"], report["leaked_validation_images"]) == (0, 0)
    assert "cannot be counted" in summary(report)


def test_sizes_modes_and_shapes():
    images = [("train", picture(i, 48, 64)) for i in range(3)]
    report = run([*images, ("train", picture(3, 30, 20)), ("test", picture(4, 40, 40))])
    assert list(report["sizes"].items()) == [("64x48", 3), ("20x30", 1), ("40x40", 1)]
    assert report["modes"] == {"L": 5}
    assert report["side"] == {"min": 20, "median": 48, "max": 48}
    assert report["aspect"] == {"min": 0.6667, "median": 1.3333, "max": 1.3333}


# Bad images.


def test_unreadable_images_are_listed_or_raised():
    images = [("train", picture(0)), ("train", None), ("test", picture(1)), ("test", None)]
    report = run(images)
    assert report["unreadable"] == [
        {"id": "id01", "reason": "id01: broken; replace it"},
        {"id": "id03", "reason": "id03: broken; replace it"},
    ]
    assert report["n"] == 4
    assert sum(report["sizes"].values()) == 2
    assert "Unreadable images: 2" in summary(report)


def test_nothing_but_unreadable_images():
    report = run([("train", None), ("test", None)])
    assert report["side"] is None
    assert report["near_duplicates_across_splits"] == 0


def test_constant_images_are_listed_and_not_near_duplicates():
    rng = np.random.default_rng(0)
    faint = flat(90) + rng.integers(0, 2, (48, 64, 1), np.uint8)  # nothing but noise
    images = [("train", flat(10)), ("test", flat(200)), ("train", faint), ("test", faint + 1)]
    images += [("train", picture(0)), ("test", picture(1))]
    report = run(images, max_distance=64, min_correlation=-1)
    assert report["constant"] == ["id00", "id01"]
    assert found_pairs(report) == [("id04", "id05")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_distance": 65}, "max_distance"),
        ({"min_correlation": 2.0}, "min_correlation"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}: "):
        run([("train", picture(0))], **options)


# Exact duplicates.


def test_exact_duplicates_come_in_clusters_with_the_worst_first():
    one, two, three = picture(1), picture(2), picture(3)
    report = run(
        [
            ("train", one),
            ("train", one),  # a copy that does no harm
            ("train", two, 0),
            ("train", two, 1),  # in conflict
            ("train", three),
            ("validation", three),
            ("test", three),
            ("test", picture(4)),
        ]
    )
    assert report["exact_duplicates"] == [
        {"images": ["id04", "id05", "id06"], "splits": list(PARTS), "labels": ["a"] * 3},
        {"images": ["id02", "id03"], "splits": ["train"] * 2, "labels": ["a", "b"]},
        {"images": ["id00", "id01"], "splits": ["train"] * 2, "labels": ["a", "a"]},
    ]
    assert report["exact_duplicates_across_splits"] == 1
    assert report["conflicting_labels"] == 1
    assert report["near_duplicates"] == []
    assert report["duplicated_test_images"] == 1


def test_the_same_bytes_in_another_shape_are_another_image():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (24, 32, 3), np.uint8)
    report = run([("train", wide), ("test", wide.reshape(32, 24, 3))])
    assert report["exact_duplicates"] == []


# Near duplicates.


def altered(pixels: np.ndarray, how: str) -> np.ndarray:
    image = Image.fromarray(pixels)
    if how == "resized":
        return np.asarray(image.resize((150, 110), Image.Resampling.BICUBIC))
    if how == "brightened":
        return np.clip(pixels * 1.1 + 12, 0, 255).astype(np.uint8)
    if how == "tinted":
        return (pixels * [1.0, 0.9, 0.8]).astype(np.uint8)
    if how == "cropped":
        return pixels[1:-1, 1:-1]
    return pixels + np.random.default_rng(0).integers(0, 12, pixels.shape, np.uint8)


@pytest.mark.parametrize("how", ["resized", "brightened", "tinted", "cropped", "noisy"])
def test_altered_copies_are_found(how):
    originals = [picture(i, 150, 200) for i in range(20)]
    images = [("train", original) for original in originals]
    copies = [("test", altered(original, how)) for original in originals[5:10]]
    report = run(images + copies)
    assert sorted(found_pairs(report)) == [(f"id{i:02d}", f"id{i + 15}") for i in range(5, 10)]
    assert report["duplicated_test_images"] == 5


def test_copies_in_files_are_found(tmp_path):
    for split, cls, seed in [("train", "x", 0), ("train", "y", 1), ("test", "x", 2)]:
        (tmp_path / split / cls).mkdir(parents=True)
        Image.fromarray(picture(seed, 90, 120)).save(tmp_path / split / cls / f"{seed}.png")
    (tmp_path / "test/y").mkdir()
    copy = Image.fromarray(picture(1, 90, 120)).convert("L")
    copy.save(tmp_path / "test/y/copy.jpg", quality=60)
    copy.save(tmp_path / "test/y/gray.png")
    source = open_source("files", tmp_path, validation_fraction=0.0)
    report = audit.audit(source, progress=False)
    assert found_pairs(report) == [("train/y/1.png", "test/y/copy.jpg")]
    (cluster,) = report["exact_duplicates"]
    assert cluster["images"] == ["train/y/1.png", "test/y/gray.png"]
    assert report["modes"] == {"RGB": 3, "L": 2}


def test_pairs_within_a_split_do_not_count():
    images = [("train", picture(0)), ("train", altered(picture(0), "tinted"))]
    report = run([*images, ("test", picture(1))])
    assert report["near_duplicates_across_splits"] == 0


def test_unrelated_images_are_no_pairs():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(60)]
    drawn = [picture(i) for i in range(60)]
    report = run([(PARTS[i % 3], pixels) for i, pixels in enumerate(noise + drawn)])
    assert report["near_duplicates"] == []


def test_a_pair_has_splits_labels_distance_and_group():
    one = picture(0)
    two, three = altered(one, "tinted"), altered(one, "brightened")
    report = run(
        [("train", one, 0, "A"), ("validation", two, 1, "A"), ("test", three, 0, "B")]
        + [("test", altered(one, "noisy"), 0, "")]
    )
    pairs = {(pair["a"], pair["b"]): pair for pair in report["near_duplicates"]}
    same = {pair: facts["same_group"] for pair, facts in pairs.items()}
    assert same == {
        ("id00", "id01"): True,
        ("id00", "id02"): False,
        ("id01", "id02"): False,
        ("id00", "id03"): None,
        ("id01", "id03"): None,
    }
    pair = pairs["id00", "id01"]
    assert (pair["splits"], pair["labels"]) == (["train", "validation"], ["a", "b"])
    assert 0 <= pair["distance"] <= duplicates.MAX_DISTANCE
    assert duplicates.MIN_CORRELATION <= pair["correlation"] <= 1
    assert report["near_duplicates_across_splits"] == 5
    assert report["near_duplicates_of_other_groups"] == 2
    assert report["near_duplicates_of_other_labels"] == 3
    distances = [pair["distance"] for pair in report["near_duplicates"]]
    assert distances == sorted(distances)


def test_a_long_list_is_cut_but_counted(monkeypatch):
    images = [(PARTS[i % 3], picture(i)) for i in range(24)]
    every = run(images, max_distance=64, min_correlation=-1)
    assert every["near_duplicates_across_splits"] == len(every["near_duplicates"]) == 3 * 8 * 8
    monkeypatch.setattr(duplicates, "MAX_LISTED", 10)
    monkeypatch.setattr(duplicates, "_BLOCK", (3, 5))
    short = run(images, max_distance=64, min_correlation=-1)
    assert short["near_duplicates_across_splits"] == 3 * 8 * 8
    assert short["near_duplicates"] == every["near_duplicates"][:10]


def test_the_report_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(views, "_CHUNK", 7)
    images = [(PARTS[i % 3], picture(i // 4)) for i in range(40)]
    images += [(PARTS[i % 3], altered(picture(i), "noisy")) for i in range(10)] + [("test", None)]
    texts = [json.dumps(run(images, num_threads=n)) for n in (1, 3)]
    assert texts[0] == texts[1]


# The search.


def test_many_classes_are_shortened_in_the_summary():
    source = make_source([(split, picture(i)) for i, split in enumerate(PARTS)])
    names = tuple(f"class{i}" for i in range(50))
    source = replace(source, name="many", task=Task(class_names=names))
    text = summary(audit.audit(source, progress=False))
    assert "... 31 more" in text
    assert len(text.splitlines()) < 45


def test_images_without_a_group_are_counted_where_others_have_one():
    listed = [("train", "A"), ("train", ""), ("test", ""), ("test", "A"), ("test", "")]
    report = run([(s, picture(i), 0, group) for i, (s, group) in enumerate(listed)])
    assert report["ungrouped"] == {"train": 1, "validation": 0, "test": 2}
    line = "The group of 1 train, 2 test images is not known: whether they leak is not either."
    assert f"! {line}" in summary(report)
    assert line in audited.section(report)


def test_what_needs_no_image_is_told_without_an_audit():
    listed = [("train", "A"), ("validation", "C"), ("test", "A"), ("test", "B")]
    source = make_source([(s, picture(i), 0, g) for i, (s, g) in enumerate(listed)])
    found, whole = audit.audit_records(source), audit.audit(source, progress=False)
    assert found == {name: whole[name] for name in found}
    text = audited.section(found)
    assert "1 of 2 test images show a lesion or patient" in text
    assert "No test image has b, c: not tested" in text
    assert "duplicate" not in text

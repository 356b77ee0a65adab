from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import cache, transforms
from diffmic_jax.data.cache import Cached, cached
from diffmic_jax.data.layouts import PARTS, Record, unlabelled
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task
from tests.data import native
from tests.data.opened import open_source

SIZE = 16


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """40 images in two classes."""
    for i in range(40):
        write(tmp_path / "data" / "ab"[i % 2] / f"{i:02d}.png", i)
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def counted(source: Source) -> tuple[Source, Counter]:
    """The source, and how often each image is read from it."""
    reads: Counter = Counter()

    def read(record: Record):
        reads[record.id] += 1
        return source.read(record)

    return replace(source, read=read), reads


def pixels(found: Cached, part: str) -> np.ndarray:
    examples = found.examples[part]
    return examples.images(np.arange(len(examples)))


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_how_many_images_are_missing_is_known_before_they_are_decoded(root, folder):
    source = open_source("x", root)
    assert cache.missing(source, SIZE, folder) == 40
    cached(source, SIZE, folder)
    assert cache.missing(open_source("x", root), SIZE, folder) == 0
    assert cache.missing(source, 2 * SIZE, folder) == 40
    write(root / "a" / "00.png", 99)
    assert cache.missing(source, SIZE, folder) == 1
    for file in folder.glob("*/states.npy"):
        spoil(file)
    assert cache.missing(source, SIZE, folder) == 40


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_the_cache_holds_every_image_prepared(root, folder, num_threads):
    source = open_source("x", root)
    found = cached(source, SIZE, folder, num_threads=num_threads)
    for part in PARTS:
        expected = [transforms.prepare(source.read(r).pixels, SIZE) for r in source.splits[part]]
        np.testing.assert_array_equal(pixels(found, part), expected)
        np.testing.assert_array_equal(
            found.examples[part].label, [r.label for r in source.splits[part]]
        )
    assert found.skipped == {}


def test_every_image_is_decoded_once_whatever_the_split(root, folder):
    for seed in (0, 1):
        source, reads = counted(open_source("x", root, split_seed=seed))
        found = cached(source, SIZE, folder)
        assert sum(reads.values()) == (40 if seed == 0 else 0)
    expected = [transforms.prepare(source.read(r).pixels, SIZE) for r in source.splits["test"]]
    np.testing.assert_array_equal(pixels(found, "test"), expected)
    source, reads = counted(source)
    cached(source, SIZE + 1, folder)
    assert set(reads.values()) == {1}


def test_a_file_that_changed_is_decoded_again_and_no_other(root, folder):
    source = open_source("x", root)
    cached(source, SIZE, folder)
    write(root / "a/02.png", 99)
    os.utime(root / "a/02.png", ns=(0, 12345))
    source, reads = counted(source)
    found = cached(source, SIZE, folder)
    assert reads == {"a/02.png": 1}
    (record,) = (r for r in source.records if r.id == "a/02.png")
    part = next(part for part in PARTS if record in source.splits[part])
    position = source.splits[part].index(record)
    np.testing.assert_array_equal(
        pixels(found, part)[position], transforms.prepare(source.read(record).pixels, SIZE)
    )


def test_what_an_interrupted_run_decoded_is_kept(root, folder, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 10)
    source = open_source("x", root)
    reads: Counter = Counter()

    def read(record: Record):
        if sum(reads.values()) == 25:
            raise KeyboardInterrupt
        reads[record.id] += 1
        return source.read(record)

    with pytest.raises(KeyboardInterrupt):
        cached(replace(source, read=read), SIZE, folder, num_threads=1)
    again, more = counted(source)
    found = cached(again, SIZE, folder)
    assert sum(more.values()) == 20
    clean = cached(source, SIZE, folder.with_name("other"))
    for part in PARTS:
        np.testing.assert_array_equal(pixels(found, part), pixels(clean, part))


def test_a_bad_image_stops_or_is_left_out_and_listed(root, folder):
    spoil(root / "a/04.png")
    spoil(root / "b/07.png")
    source = open_source("x", root)
    with pytest.raises(InputError, match=r"a/04\.png: cannot be read"):
        cached(source, SIZE, folder)
    found = cached(source, SIZE, folder, on_bad_image="skip")
    assert list(found.skipped) == ["a/04.png", "b/07.png"]
    assert all(name in reason for name, reason in found.skipped.items())
    kept = [r.id for part in PARTS for r in found.examples[part].records]
    assert len(kept) == 38
    assert not set(kept) & set(found.skipped)
    expected = [
        transforms.prepare(source.read(r).pixels, SIZE) for r in found.examples["train"].records
    ]
    np.testing.assert_array_equal(pixels(found, "train"), expected)
    with pytest.raises(InputError, match=r"a/04\.png: cannot be read"):
        cached(source, SIZE, folder)


def test_a_repaired_image_is_used_again(root, folder):
    spoil(root / "a/04.png")
    source = open_source("x", root)
    cached(source, SIZE, folder, on_bad_image="skip")
    write(root / "a/04.png", 4)
    source, reads = counted(source)
    found = cached(source, SIZE, folder)
    assert reads == {"a/04.png": 1}
    assert sum(len(found.examples[part]) for part in PARTS) == 40


def test_only_known_policies_are_taken(root, folder):
    with pytest.raises(
        InputError,
        match=r"^config\.data\.on_bad_image='ignore' is unknown; choose one of error, skip",
    ):
        cached(open_source("x", root), SIZE, folder, on_bad_image="ignore")


def test_a_folder_that_cannot_be_used_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache_dir: .*/file/.* cannot be used"):
        cached(open_source("x", root), SIZE, tmp_path / "file")


def test_too_little_space_is_an_error_beforehand(root, folder):
    with pytest.raises(InputError, match=r"data\.cache_dir: .* needs 1[0-9.]+ GB, .* are free"):
        cached(open_source("x", root), 10_000_000, folder)


@pytest.mark.parametrize("file", ["states.npy", "bad.json", "images.npy"])
@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_cache_is_made_again(root, folder, file, content):
    source = open_source("x", root)
    before = pixels(cached(source, SIZE, folder), "train")
    (home,) = folder.iterdir()
    (home / file).unlink()
    if content is not None:
        (home / file).write_bytes(content)
    np.testing.assert_array_equal(pixels(cached(source, SIZE, folder), "train"), before)


def test_two_data_sets_of_the_same_names_do_not_share_pixels(tmp_path, folder, monkeypatch):
    for name, seed in (("one", 0), ("two", 100)):
        for i in range(20):
            write(tmp_path / name / "data" / "ab"[i % 2] / f"{i:02d}.png", seed + i)
        native.write_medmnist(tmp_path / f"{name}.npz", 7 if seed else 5)

    def decoded(root: str, project: str) -> np.ndarray:
        monkeypatch.chdir(tmp_path / project)
        return pixels(cached(open_source("x", root), SIZE, folder), "train")

    assert not np.array_equal(decoded("data", "one"), decoded("data", "two"))
    assert not np.array_equal(decoded("../one.npz", "one"), decoded("../two.npz", "two"))
    assert len(list(folder.iterdir())) == 4


def test_a_replacement_of_the_same_size_and_date_is_noticed(tmp_path, folder):
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (10, 200)]
    for i in range(20):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[0]).save(path)
    source = open_source("x", tmp_path / "data")
    cached(source, SIZE, folder)
    victim = Path(source.splits["train"][0].path)
    stat = victim.stat()
    Image.fromarray(pictures[1]).save(tmp_path / "new.bmp")
    os.utime(tmp_path / "new.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(tmp_path / "new.bmp", victim)
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert (pixels(cached(source, SIZE, folder), "train")[0] == 200).all()


def test_what_is_too_large_for_one_limit_is_not_for_another(root, folder):
    def skipped(limit: int) -> int:
        source = open_source("x", root, max_pixels=limit)
        return len(cached(source, SIZE, folder, on_bad_image="skip").skipped)

    assert [skipped(limit) for limit in (480, 479, 480)] == [0, 40, 0]


def test_two_phantoms_do_not_share_pixels(folder):
    def few(seed: int) -> Source:
        source = open_source("phantom", split_seed=seed)
        return replace(source, splits={part: source.splits[part][:2] for part in PARTS})

    first, second = (cached(few(seed), SIZE, folder) for seed in (0, 1))
    assert not np.array_equal(pixels(first, "test"), pixels(second, "test"))
    assert len(list(folder.iterdir())) == 2


def decode(root: Path, folder: Path) -> int:
    found = cached(open_source("x", root), SIZE, folder)
    return int(pixels(found, "train").sum(dtype=np.int64))


def test_processes_that_need_the_same_cache_take_turns(root, folder):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(decode, [(root, folder)] * 4)
    assert len(set(sums)) == 1
    assert sums[0] == decode(root, folder.with_name("alone"))


def test_sending_the_pixels_to_another_process_sends_no_pixels(root, folder):
    found = cached(open_source("x", root), SIZE, folder)
    before = pixels(found, "train")
    sent = pickle.dumps(found.examples["train"].pixels)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)(found.examples["train"].rows), before)


def test_the_file_is_opened_before_the_threads_that_read_it_start(root, folder, monkeypatch):
    found = cached(open_source("x", root), SIZE, folder)
    sent = pickle.loads(pickle.dumps(found.examples["train"]))
    opened = []
    monkeypatch.setattr(cache.np, "load", lambda *args, **kwargs: opened.append(args))
    np.testing.assert_array_equal(sent.images(np.arange(2)), pixels(found, "train")[:2])
    assert not opened


def test_labels_of_many_classes_have_a_column_each(folder):
    label = {"a": (1, 0, 1), "b": (0, 0, 0)}
    records = tuple(Record(name, hot, name) for name, hot in label.items())
    parts = {"train": records, "validation": (), "test": records[:0]}
    image = np.zeros((4, 4, 3), np.uint8)
    task = Task(class_names=("x", "y", "z"), multi_label=True)

    def read(_: Record) -> cache.Decoded:
        return cache.Decoded(image, "RGB")

    source = Source(name="x", task=task, splits=parts, read=read)
    found = cached(source, SIZE, folder)
    assert found.examples["train"].label.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert found.examples["test"].label.shape == (0, 3)
    assert json.loads((next(folder.iterdir()) / "bad.json").read_text()) == {}


@pytest.mark.parametrize("multi_label", [False, True])
def test_images_without_a_label_go_with_every_task(folder, multi_label):
    task = Task(class_names=("x", "y", "z"), multi_label=multi_label)
    records = tuple(unlabelled(name, name, task) for name in "ab")
    parts = {"train": (), "validation": (), "test": records}
    image = cache.Decoded(np.zeros((4, 4, 3), np.uint8), "RGB")
    source = Source(name="x", task=task, splits=parts, read=lambda _: image)
    label = cached(source, SIZE, folder).examples["test"].label
    assert label.shape == ((2, 3) if multi_label else (2,))


def write_deep(path: Path, high: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20), high, np.uint16)).save(path)


def shades(source: Source, folder: Path, gray_bits: int = 0) -> tuple[dict[str, int], int]:
    """The shade of each image by id, and the scale."""
    found = cached(source, SIZE, folder, on_bad_image="skip", gray_bits=gray_bits)
    by_id = {
        record.id: int(image[0, 0, 0])
        for part in PARTS
        for record, image in zip(found.examples[part].records, pixels(found, part), strict=True)
    }
    return by_id, found.gray_bits


def test_deep_gray_is_on_one_scale_in_the_whole_data_set(tmp_path, folder):
    for name, high in (("a/1", 255), ("a/2", 1023), ("a/3", 4095), ("b/1", 700), ("b/2", 300)):
        write_deep(tmp_path / f"root/{name}.png", high)
    source = open_source("x", tmp_path / "root", validation_fraction=0.0)
    expected = {"a/1": 255, "a/2": 1023, "a/3": 4095, "b/1": 700, "b/2": 300}
    for _ in range(2):  # decoded, then from the cache
        by_id, bits = shades(source, folder)
        assert bits == 12
        assert by_id == {f"{i}.png": round(255 * high / 4095) for i, high in expected.items()}
    # New images take the scale of a run, and do not change what training reads.
    by_id, bits = shades(source, folder, gray_bits=16)
    assert (bits, by_id["a/3.png"]) == (16, 16)
    by_id, bits = shades(source, folder, gray_bits=10)
    assert (bits, "a/3.png" in by_id, by_id["a/2.png"]) == (10, False, 255)
    assert shades(source, folder)[0]["a/3.png"] == 255


def test_a_deeper_image_that_comes_later_changes_the_scale_of_all(tmp_path, folder):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        write_deep(tmp_path / f"root/{name}.png", 255)
    source = open_source("x", tmp_path / "root", validation_fraction=0.0)
    assert shades(source, folder) == ({f"{n}.png": 255 for n in ("a/1", "a/2", "b/1", "b/2")}, 8)
    write_deep(tmp_path / "root/a/1.png", 65535)
    by_id, bits = shades(source, folder)
    assert (bits, by_id["a/1.png"], by_id["b/1.png"]) == (16, 255, 1)

"""A cache whose files change while they are in use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import loader
from diffmic_jax.data.cache import Cached, cached
from diffmic_jax.errors import StorageError
from tests.data.opened import open_source

SIZE = 16


@pytest.fixture
def root(tmp_path) -> Path:
    """10 images in two classes."""
    for i in range(10):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


@pytest.fixture
def found(root, tmp_path) -> Cached:
    return open_cache(root, tmp_path)


def open_cache(root: Path, folder: Path) -> Cached:
    return cached(open_source("x", root), SIZE, folder / "cache")


def pixels(found: Cached) -> np.ndarray:
    return found.examples["train"].images(np.arange(len(found.examples["train"])))


def images_file(folder: Path) -> Path:
    (path,) = folder.glob("cache/*/images.npy")
    return path


def test_a_file_that_is_cut_off_is_an_error_and_made_again(root, tmp_path, found):
    before = pixels(found)
    os.truncate(images_file(tmp_path), 1000)
    with pytest.raises(StorageError, match="images.npy: was cut off while it was in use; the next"):
        pixels(found)
    np.testing.assert_array_equal(pixels(open_cache(root, tmp_path)), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_cut_off_ends_the_batches(tmp_path, found, num_workers):
    batching = loader.Batching(batch_size=2, num_workers=num_workers)
    batches = loader.train_batches(found.examples["train"], batching, seed=0, num_steps=10**6)
    next(batches)
    os.truncate(images_file(tmp_path), 1000)
    with pytest.raises(StorageError, match="was cut off"):
        for _ in batches:
            pass


def test_a_cache_that_is_deleted_serves_those_who_use_it(tmp_path, found):
    before = pixels(found)
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(pixels(found), before)


def test_pixels_that_are_not_those_that_were_decoded_are_noticed(root, tmp_path, found):
    before, path = pixels(open_cache(root, tmp_path)), images_file(tmp_path)
    content = bytearray(path.read_bytes())
    row = int(found.examples["train"].rows[-1])
    content[(row - 10) * SIZE * SIZE * 3] ^= 1  # of 10 rows at the end of the file
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"has other pixels in row {row} than were decoded"):
        pixels(found)
    np.testing.assert_array_equal(pixels(open_cache(root, tmp_path)), before)


def test_an_image_that_is_decoded_again_does_not_change_under_another_run(root, tmp_path, found):
    before = pixels(found)
    path = next(Path(r.path) for r in found.examples["train"].records)
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(path)
    after = pixels(open_cache(root, tmp_path))
    assert (after == 0).all(axis=(1, 2, 3)).sum() == 1
    np.testing.assert_array_equal(pixels(found), before)

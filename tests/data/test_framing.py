"""What of a picture the networks see."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.config import Data
from diffmic_jax.data import framing
from diffmic_jax.data.cache import cached
from diffmic_jax.data.framing import Framing, bright_box
from diffmic_jax.data.sources import open_source
from diffmic_jax.data.transforms import prepare
from diffmic_jax.errors import InputError
from tests import tiny


def disc(height: int, width: int, radius: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2
    return np.repeat(np.where(inside, 150, 3)[..., None], 3, axis=-1).astype(np.uint8)


def test_a_centre_square_is_the_default():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert Framing.of(Data()) == Framing()
    assert Framing().frame(image) is image


def test_a_letterbox_keeps_all_of_a_wide_and_of_a_high_picture():
    image = np.full((40, 100, 3), 200, np.uint8)
    square = Framing("letterbox").frame(image)
    assert square.shape == (100, 100, 3)
    assert (square[30:70] == 200).all()
    assert not square[:30].any() and not square[70:].any()
    high = Framing("letterbox").frame(image.transpose(1, 0, 2))
    np.testing.assert_array_equal(high, square.transpose(1, 0, 2))


def test_a_stretched_picture_keeps_its_sides():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, :50] = 200
    square = Framing("stretch").frame(image)
    assert square.shape == (40, 40, 3)
    assert (square[:, :18] == 200).all() and not square[:, 22:].any()


def test_the_dark_around_a_disc_is_cut_away():
    image = disc(120, 200, 50)
    assert bright_box(image) == pytest.approx((10, 110, 50, 150), abs=3)
    framed = Framing("crop", "disc").frame(image)
    assert framed.shape[:2] == pytest.approx((100, 100), abs=5)
    noisy = image.copy()
    noisy[0, ::70] = 255  # a few bright pixels at the edge are none of it
    assert bright_box(noisy) == bright_box(image)
    black = np.zeros((20, 30, 3), np.uint8)
    assert Framing("crop", "disc").frame(black).shape == black.shape


def test_decoded_images_are_framed_and_kept_apart(tmp_path):
    tiny.write_images(tmp_path / "data", 3)
    path = next((tmp_path / "data").rglob("*.png"))
    Image.fromarray(disc(60, 90, 20)).save(path)
    found = {}
    for trim in ("none", "disc"):
        data = Data(root=str(tmp_path / "data"), fit="letterbox", trim=trim)
        source = open_source(data)
        examples = cached(source, 32, tmp_path / "cache").examples
        (place,) = [
            (part, i)
            for part in source.splits
            for i, record in enumerate(examples[part].records)
            if record.path == str(path)
        ]
        part, i = place
        found[trim] = examples[part].images(np.array([i]))[0]
        pixels = source.read(examples[part].records[i]).pixels
        np.testing.assert_array_equal(found[trim], prepare(source.framing.frame(pixels), 32))
    assert found["disc"].mean() > 2 * found["none"].mean()


def test_a_strip_whose_square_takes_too_much_memory_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(framing, "LARGEST", 90 * 90)
    strip = np.zeros((10, 100, 3), np.uint8)
    with pytest.raises(InputError, match="strip.png: a square around its 100 x 10 pixels takes"):
        Framing("letterbox").frame(strip, "strip.png")
    assert Framing("crop").frame(strip, "strip.png") is strip
    square = np.zeros((100, 100, 3), np.uint8)
    assert Framing("letterbox").frame(square, "square.png") is square
    nearly = np.zeros((99, 100, 3), np.uint8)  # larger than the limit already
    assert Framing("letterbox").frame(nearly, "nearly.png").shape == (100, 100, 3)
    # In a data set it is a bad image like others.
    for name, width in (("a", 100), ("b", 80)):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(strip[:, : width if i < 1 else 50]).save(tmp_path / name / f"{i}.png")
    source = open_source(Data(root=str(tmp_path), fit="letterbox"))
    found = cached(source, 32, tmp_path / "cache", on_bad_image="skip")
    assert [*found.skipped] == ["a/0.png"]

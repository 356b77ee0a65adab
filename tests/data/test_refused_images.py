"""Frames, sizes, formats and files that are refused, and what that costs."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import images
from diffmic_jax.errors import InputError
from tests.data.pictures import (
    bmp_of_declared_size,
    checked,
    encode,
    jpeg_of_declared_size,
    peak_memory,
    pixels_of,
    png_of_declared_size,
    ramp,
    refusal,
    tiff,
    tiff_of_declared_size,
)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_with_their_number(kind):
    others = [ramp().rotate(180), ramp().rotate(90), ramp().rotate(180)]
    data = encode(ramp(), kind, save_all=True, append_images=others)
    assert "it holds 4 frames" in refusal(data)


def test_endless_pages_are_not_counted_to_the_end():
    page = bytearray(tiff(np.zeros((2, 2), np.uint8), "<"))
    entries = bytes(page[8:118])
    assert page[118:122] == bytes(4)
    page[118:122] = struct.pack("<I", len(page))
    for _ in range(150):
        page += entries + struct.pack("<I", len(page) + len(entries) + 4)
    assert "at least 100 frames" in refusal(bytes(page))


def test_of_a_phones_pictures_the_first_is_taken():
    first, second = ramp().resize((32, 16)), Image.new("RGB", (32, 16))
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(pixels_of(data) - np.asarray(first).astype(int)).mean() < 12
    broken = data.replace(b"MPF\0", b"MPF\0\xff\xff\xff", 1)
    np.testing.assert_array_equal(pixels_of(broken), pixels_of(data))


@pytest.mark.parametrize("name", ["x.gif", "x.png"])
def test_gif_is_refused_by_naming_what_is_accepted(name):
    message = refusal(encode(ramp("P"), "GIF"), name)
    assert "it is a GIF); convert it to" in message
    for accepted in ("PNG", "JPEG", "TIFF", "BMP", "WebP", "DICOM"):
        assert accepted in message


@pytest.mark.parametrize(
    "content", [b"no image", b"\x89PNG\r\n\x1a\n", b"\0" * 5000, b"BM", b"II*\0"]
)
def test_what_is_no_image_is_refused_by_naming_what_is_accepted(content):
    assert "PNG, JPEG, TIFF, BMP, WebP or DICOM" in refusal(content)


def test_the_pixel_limit_names_size_limit_and_field():
    data = encode(ramp(height=20, width=30))
    message = refusal(data, max_pixels=599)
    assert "30 x 20" in message
    assert "599" in message
    assert "data.max_pixels" in message
    assert pixels_of(data, max_pixels=600).shape == (20, 30, 3)


LIARS = [png_of_declared_size, bmp_of_declared_size, tiff_of_declared_size, jpeg_of_declared_size]


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize(("size", "reason"), [(60_000, "data.max_pixels"), (9_999, "truncated")])
def test_a_declared_size_costs_no_memory(liar, size, reason):
    before = peak_memory()
    assert reason in refusal(liar(size, size))
    assert peak_memory() - before < 50  # of 286 or more


def test_tiles_that_are_larger_than_the_image_count_too():
    tags = {322: 100_000, 323: 100_000, 324: 200, 325: 4}
    assert "100000 x 100000" in refusal(tiff(np.zeros((2, 2), np.uint8), "<", tags=tags))


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encode(ramp(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert pixels_of(data[:-2] + 20 * last + b"\xff\xd9").shape == (6, 9, 3)
    assert "scans" in refusal(data[:-2] + 2000 * last + b"\xff\xd9")


# Files.


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"No such file"):
        images.decode(tmp_path / "x.png")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    (tmp_path / "x.png").mkdir()
    os.mkfifo(tmp_path / "y.png")
    for path in (tmp_path / "x.png", tmp_path / "y.png", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            images.decode(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.png").touch()
    with pytest.raises(InputError, match="empty"):
        images.decode(tmp_path / "x.png")


def test_a_file_too_large_for_any_image_is_not_read(tmp_path):
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(InputError, match=r"data\.max_pixels"):
        images.decode(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encode(ramp()))
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        images.decode(path)


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[31m.png", "a\udcff.png", "a\u2028b.png"])
def test_a_message_stays_one_line_whatever_the_name(name):
    with pytest.raises(InputError) as caught:
        images.decode(io.BytesIO(b"no image"), name)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_the_name_defaults_to_the_path(tmp_path):
    path = tmp_path / "größe 1.png"
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        images.decode(path)
    checked(caught.value, str(path))
    with pytest.raises(InputError) as caught:
        images.decode(path, "upload 3")
    checked(caught.value, "upload 3")

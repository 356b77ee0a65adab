"""Pixels, orientation and depth of the pictures that are read."""

from __future__ import annotations

import io
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import images
from diffmic_jax.errors import InputError
from tests.data.pictures import encode, gray16, pixels_of, ramp, refusal, tiff

LOSSLESS = [(kind, mode) for kind in ("PNG", "TIFF", "BMP") for mode in ("RGB", "L", "P", "1")]


@pytest.mark.parametrize(("kind", "mode"), [*LOSSLESS, ("WEBP", "RGB"), ("WEBP", "RGBA")])
def test_pixels_come_through_unchanged(kind, mode):
    image = ramp(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(
        pixels_of(encode(image, kind, **options)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_comes_through_unchanged(compression):
    image = ramp()
    data = encode(image, "TIFF", compression=compression)
    np.testing.assert_array_equal(pixels_of(data), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_comes_through_up_to_its_losses(mode):
    smooth = ramp().convert(mode).resize((64, 64))
    pixels = pixels_of(encode(smooth, "JPEG", quality=95, subsampling=0))
    wanted = np.asarray(smooth.convert("RGB")).astype(int)
    assert np.abs(pixels - wanted).mean() < 4


def test_cmyk_is_read_as_ink():
    ink = Image.new("CMYK", (4, 4), (255, 0, 0, 0))  # cyan alone absorbs red
    for kind in ("TIFF", "JPEG"):
        red, green, blue = pixels_of(encode(ink, kind))[0, 0]
        assert red < 10
        assert min(green, blue) > 245


def test_adobe_cmyk_is_not_inverted():
    # Photoshop writes inverted inks and marks that with an Adobe marker; so does Pillow.
    data = encode(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in data
    assert pixels_of(data).min() > 245


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(mode):
    image = ramp(mode)
    opaque = np.asarray(image.convert("RGB"))
    image.putalpha(Image.fromarray(np.full((6, 9), 3, np.uint8)))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels_of(encode(image, kind)), opaque)


@pytest.mark.parametrize(
    ("mode", "transparency"), [("P", 5), ("P", bytes(range(256))), ("RGB", (1, 2, 3)), ("L", 7)]
)
def test_transparent_colours_are_dropped(mode, transparency):
    image = ramp(mode)
    data = encode(image, transparency=transparency)
    np.testing.assert_array_equal(pixels_of(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_the_stored_mode_is_reported(mode):
    image = Image.new(mode, (3, 2))
    assert images.decode(io.BytesIO(encode(image, "TIFF")), "x").mode == mode


@pytest.mark.parametrize("name", ["x.png", "x.txt", "x", ""])
def test_content_decides_and_not_the_name(name):
    image = ramp("L")
    jpeg = images.decode(io.BytesIO(encode(image, "JPEG", quality=100)), name)
    assert np.abs(jpeg.pixels[..., 0] - np.asarray(image).astype(int)).max() < 20


def test_a_file_is_read_from_its_start_and_from_a_path(tmp_path):
    image = ramp()
    file = io.BytesIO(encode(image))
    file.seek(7)
    np.testing.assert_array_equal(images.decode(file).pixels, np.asarray(image))
    path = tmp_path / "x.jpg"
    path.write_bytes(file.getvalue())
    np.testing.assert_array_equal(images.decode(path).pixels, np.asarray(image))


def test_constant_images_are_read():
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        assert np.ptp(pixels_of(encode(Image.new("RGB", (40, 30), (9, 9, 9)), kind))) == 0
    assert pixels_of(encode(Image.new("1", (1500, 1500)), "PNG")).max() == 0
    dense = encode(Image.new("RGB", (1600, 1600)), "WEBP", lossless=True, method=0)
    assert pixels_of(dense).max() == 0
    fax = encode(Image.new("1", (2480, 3508), 1), "TIFF", compression="group4")
    assert pixels_of(fax).min() == 255


# Pictures: orientation.

UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],  # stored top is the right side
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image.transpose(1, 0, 2)[::-1],  # stored top is the left side
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_orientation_is_applied_once(kind, orientation):
    image = ramp().resize((32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    pixels = pixels_of(encode(image, kind, exif=exif, **options))
    wanted = UPRIGHT[orientation](np.asarray(image).astype(int))
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).max() <= (8 if kind == "JPEG" else 0)


def test_an_unknown_orientation_means_nothing():
    exif = Image.Exif()
    exif[0x0112] = 77
    data = encode(ramp(), exif=exif)
    np.testing.assert_array_equal(pixels_of(data), np.asarray(ramp()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_damaged_exif_block_does_not_stop_a_readable_picture(kind):
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010F] = "a maker whose name needs a block of its own"
    block = exif.tobytes()
    data = encode(ramp(), kind, exif=exif)
    rng = random.Random(0)
    for _ in range(40):
        damaged = bytearray(block)
        for _ in range(4):
            damaged[rng.randrange(6, len(block))] = rng.choice([0, 255, rng.randrange(256)])
        assert pixels_of(data.replace(block[6:], damaged[6:])).size == 6 * 9 * 3


# Pictures: more than eight bits.


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_use_the_scale_of_twelve(kind):
    pixels = pixels_of(encode(gray16([0, 1, 2048, 4087, 4095]), kind))
    # 2048 * 255 / 4095 = 127.53 and 4087 * 255 / 4095 = 254.502.
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 128, 255, 255])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_use_the_scale_of_sixteen(kind):
    pixels = pixels_of(encode(gray16([0, 4096, 32768, 65535]), kind))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 16, 128, 255])
    assert pixels_of(encode(gray16([0, 4096]), kind)).max() == 16


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_gray_is_scaled_by_the_bits_in_use_or_by_those_that_are_asked_for(bits):
    data = encode(gray16([0, 2**bits - 1]), "PNG")
    own = images.decode(io.BytesIO(data))
    assert own.bits == bits
    np.testing.assert_array_equal(own.pixels[0, :, 0], [0, 255])
    common = images.decode(io.BytesIO(data), gray_bits=16).pixels[0, 1, 0]
    assert common == round(255 * (2**bits - 1) / 65535)


def test_gray_beyond_the_scale_of_the_others_is_refused():
    with pytest.raises(InputError, match="values reach 4096, but the other images use 12 bits"):
        images.decode(io.BytesIO(encode(gray16([0, 4096]), "PNG")), gray_bits=12)


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_endian_and_wide_integers_that_fit_are_read(order):
    data = tiff(np.array([[0, 257, 65535]], f"{order}u2"), order)
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [0, 1, 255])
    wide = encode(Image.fromarray(np.array([[0, 257, 65535]], np.int32)), "TIFF")
    np.testing.assert_array_equal(pixels_of(wide)[0, :, 0], [0, 1, 255])


def test_a_tiff_in_which_0_is_white_is_inverted():
    data = tiff(np.array([[0, 257, 65535]], "<u2"), "<", photometric=0)
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [255, 254, 0])
    data = tiff(np.array([[0, 1, 255]], "u1"), "<", photometric=0)
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [255, 254, 0])


@pytest.mark.parametrize("values", [[0, 65536], [-1, 5]])
def test_integers_beyond_sixteen_bits_are_refused(values):
    data = encode(Image.fromarray(np.array([values], np.int32)), "TIFF")
    message = refusal(data)
    assert f"from {min(values)} to {max(values)}" in message
    assert "rescale them to 0..65535" in message


def test_floats_in_the_unit_interval_are_scaled():
    data = encode(Image.fromarray(np.array([[0, 0.25, 1]], np.float32)), "TIFF")
    np.testing.assert_array_equal(pixels_of(data)[0, :, 0], [0, 64, 255])


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 1.5])
def test_other_floats_are_refused(value):
    data = encode(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF")
    assert "rescale them to [0, 1]" in refusal(data)


# Warnings.


def test_warnings_of_decoders_are_silent_in_any_thread():
    exif = Image.Exif()
    exif[0x010F] = "a maker whose name needs a block of its own"
    block = exif.tobytes()
    lost = block[:24] + b"\xff\xff" + block[26:]  # the address of the name
    data = encode(ramp(), "JPEG", exif=exif).replace(block, lost)
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(data)).getexif()
    warnings.simplefilter("error")
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(pixels_of, [data] * 100))) == 100


def test_silencing_adds_one_filter_however_often_it_is_done():
    pixels_of(encode(ramp()))
    count = len(warnings.filters)
    for _ in range(3):
        pixels_of(encode(ramp()))
    assert len(warnings.filters) == count
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", stacklevel=1)

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import images
from diffmic_jax.errors import InputError


def ramp(mode: str = "RGB", height: int = 6, width: int = 9) -> Image.Image:
    """Brighter to the right and, more so, to the bottom; saturated in colour."""
    rows, columns = np.mgrid[:height, :width]
    gray = 20 + 25 * rows + 5 * columns
    colour = np.stack([gray, 255 - gray, gray // 2], axis=-1)
    return Image.fromarray(colour.astype(np.uint8)).convert(mode)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(data: bytes, name: str = "x.png", **options) -> np.ndarray:
    pixels = images.decode(io.BytesIO(data), name, **options).pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def refusal(data: bytes, name: str = "x.png", **options) -> str:
    """The message with which content is refused."""
    with pytest.raises(InputError) as caught:
        images.decode(io.BytesIO(data), name, **options)
    return checked(caught.value, name)


def checked(error: InputError, name: str) -> str:
    message = str(error)
    assert message.startswith(f"{name}: ")
    assert message.isprintable()  # hence one line
    assert len(message) < 400
    return message


# Pictures: modes and formats.


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


def gray16(values: list[int], dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


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


def tiff(
    array: np.ndarray, order: str, photometric: int = 1, tags: dict[int, int] | None = None
) -> bytes:
    """An uncompressed gray TIFF, written by hand."""
    height, width = array.shape
    fields = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: photometric}
    fields |= {273: 200, 277: 1, 278: height, 279: array.nbytes} | (tags or {})
    entries = b"".join(struct.pack(f"{order}HHII", k, 4, 1, v) for k, v in sorted(fields.items()))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}IH", 8, len(fields)) + entries + bytes(4)
    return head.ljust(200, b"\0") + array.tobytes()


# Pictures: frames, sizes and formats that are refused.


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


def png_of_declared_size(width: int, height: int) -> bytes:
    data = bytearray(encode(ramp()))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def bmp_of_declared_size(width: int, height: int) -> bytes:
    data = bytearray(encode(ramp(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_of_declared_size(width: int, height: int) -> bytes:
    return tiff(np.zeros((2, 2), np.uint8), "<", tags={256: width, 257: height})


def jpeg_of_declared_size(width: int, height: int) -> bytes:
    data = bytearray(encode(ramp(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


LIARS = [png_of_declared_size, bmp_of_declared_size, tiff_of_declared_size, jpeg_of_declared_size]


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize(("size", "reason"), [(60_000, "data.max_pixels"), (9_999, "truncated")])
def test_a_declared_size_costs_no_memory(liar, size, reason):
    before = peak_memory()
    assert reason in refusal(liar(size, size))
    assert peak_memory() - before < 50  # of 286 or more


def peak_memory() -> float:
    """In MiB, of this process so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


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


def test_list_images_is_sorted_and_looks_into_sub_folders(tmp_path):
    names = ["a.png", "b.dcm", "b.png", "c.dicom", "d.gif", "sub/a.JPG"]
    for name in [*names, ".hidden.png", "notes.txt", ".checkpoints/a.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert images.list_images(str(tmp_path)) == [tmp_path / name for name in names]


def test_list_images_follows_a_link_to_a_folder_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "b.png", elsewhere / "a.png"):
        path.parent.mkdir()
        path.touch()
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)  # a circle
    assert images.list_images(root) == [root / "b.png", root / "linked/a.png"]


def test_list_images_refuses_an_empty_or_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        images.list_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        images.list_images(tmp_path / "nowhere")


def test_is_image_looks_at_the_extension(tmp_path):
    for name in ("x.TIFF", "x.webp", "x.Dcm"):
        (tmp_path / name).touch()
        assert images.is_image(tmp_path / name, tmp_path)
    assert not images.is_image(tmp_path / "missing.png", tmp_path)
    assert all(extension == extension.lower() for extension in images.EXTENSIONS)


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

from __future__ import annotations

import io
import os
import random
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import images
from diffmic_jax.types import InputError


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
    # Photoshop writes inverted inks and says so with an Adobe marker; so does Pillow.
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


def test_warnings_of_decoders_reach_nobody_in_any_thread():
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


# DICOM.


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")


def dicom(array: np.ndarray, photometric: str = "MONOCHROME2", syntax: str = "", **attributes):
    """A data set of one image, in explicit little endian unless told otherwise."""
    from pydicom import dataset, uid

    image = dataset.Dataset()
    image.file_meta = dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.UID(syntax or uid.ExplicitVRLittleEndian)
    image.SOPClassUID, image.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    image.Rows, image.Columns = array.shape[:2]
    image.SamplesPerPixel = 1 if array.ndim == 2 else 3
    if array.ndim == 3:
        image.PlanarConfiguration = 0
    image.PhotometricInterpretation = photometric
    image.BitsAllocated = image.BitsStored = 8 * array.itemsize
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(array.dtype.kind == "i")
    image.PixelData = array.tobytes() + bytes(array.nbytes % 2)
    image["PixelData"].VR = "OB" if array.itemsize == 1 else "OW"
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return image


def dump(image) -> bytes:
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def with_raw(image, keyword: str, value: bytes, vr: str = "DS") -> bytes:
    """The file with one more attribute of any content, which pydicom would not write."""
    from pydicom import datadict

    tag = datadict.tag_for_keyword(keyword)
    value += b" " * (len(value) % 2)
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    data = dump(image)
    at = data.rindex(b"\xe0\x7f\x10\0")  # the pixels come last
    return data[:at] + element + data[at:]


def compressed(array: np.ndarray, photometric: str, syntax: str, frame: bytes, **attributes):
    from pydicom import encaps

    image = dicom(array, photometric, syntax, **attributes)
    image.PixelData = encaps.encapsulate([frame])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    return image


def table(first: int, entries: list[int], bits: int):
    from pydicom import dataset

    holder = dataset.Dataset()
    holder.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    holder.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return [holder]


def gray_of(image, **options) -> list[int]:
    pixels = pixels_of(dump(image), **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


LINE = np.array([[0, 50, 100, 200]], np.uint8)


def test_dicom_without_a_window_goes_from_darkest_to_brightest(pydicom):
    assert gray_of(dicom(LINE + 55)) == [0, 64, 128, 255]
    assert gray_of(dicom(LINE.astype(np.int16) * 100 - 3000)) == [0, 64, 128, 255]
    assert gray_of(dicom(np.full((1, 4), 7, np.uint8))) == [0] * 4


def test_dicom_monochrome1_is_inverted(pydicom):
    image = dicom(LINE, "MONOCHROME1")
    assert gray_of(image) == [255, 191, 127, 0]
    assert images.decode(io.BytesIO(dump(image)), "x").mode == "MONOCHROME1"


def test_dicom_is_told_by_its_magic_or_its_extension(pydicom, tmp_path):
    data = dump(dicom(LINE))
    assert data[128:132] == b"DICM"
    assert pixels_of(data, "x.png").shape == (1, 4, 3)
    bare = data[data.index(b"\x08\0\x16\0UI") :]  # the data set without any header
    assert pixels_of(bare, "x.DCM").shape == (1, 4, 3)
    (tmp_path / "x.dicom").write_bytes(bare)
    assert images.decode(tmp_path / "x.dicom", "upload").pixels.shape == (1, 4, 3)
    wide = np.array([[0, 1, 256, 512]], ">u2")  # 0, 256, 1 and 2 in the wrong order
    swapped = dump(dicom(wide, syntax=pydicom.uid.ExplicitVRBigEndian))
    swapped = swapped[swapped.index(b"\0\x08\0\x16UI") :]
    assert pixels_of(swapped, "x.dcm")[0, :, 0].tolist() == [0, 0, 128, 255]
    assert "not a PNG" in refusal(bare)
    assert "not a DICOM image" in refusal(encode(ramp()), "x.dcm")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_dicom_of_other_byte_orders_is_read(pydicom, syntax):
    array = np.array([[0, 50, 100, 200]], ">u2" if syntax.endswith(".2.2") else "<u2")
    assert gray_of(dicom(array, syntax=syntax)) == [0, 64, 128, 255]


def test_dicom_windows_are_those_of_the_standard(pydicom):
    image = dicom(LINE, WindowCenter=100.5, WindowWidth=101)  # 50 becomes black and 150 white
    assert gray_of(image) == [0, 0, 128, 255]
    image.VOILUTFunction = "LINEAR_EXACT"
    image.WindowCenter, image.WindowWidth = 100, 200  # 0 and 200
    assert gray_of(image) == [0, 64, 128, 255]
    image.VOILUTFunction = "SIGMOID"
    sigmoid = 255 / (1 + np.exp(-4 * (LINE[0] - 100.0) / 200))
    assert gray_of(image) == np.rint(sigmoid).astype(int).tolist()


def test_dicom_of_several_windows_uses_the_first(pydicom):
    image = dicom(LINE, WindowCenter=[100.5, 3], WindowWidth=[101, 4])
    assert gray_of(image) == [0, 0, 128, 255]


def test_a_dicom_window_of_width_1_is_a_step(pydicom):
    assert gray_of(dicom(LINE, WindowCenter=100, WindowWidth=1)) == [0, 0, 255, 255]
    assert gray_of(dicom(LINE, WindowCenter=101, WindowWidth=1)) == [0, 0, 0, 255]


def test_dicom_is_rescaled_before_the_window(pydicom):
    image = dicom(LINE, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=100.5, WindowWidth=401)
    assert gray_of(image) == [0, 64, 128, 255]  # -100 and 300
    image.RescaleSlope, image.RescaleIntercept, image.WindowCenter = 1, -100, 0.5
    assert gray_of(image) == [64, 96, 128, 191]  # -200 and 200
    image.RescaleSlope, image.RescaleIntercept = -1, 200
    del image.WindowCenter, image.WindowWidth
    assert gray_of(image) == [255, 191, 128, 0]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_dicom_tables_replace_slope_and_window(pydicom, syntax):
    image = dicom(np.array([[0, 1, 2, 3]], np.uint8), syntax=syntax)
    image.VOILUTSequence = table(1, [10, 20, 255], 8)  # below its first value, the first entry
    assert gray_of(image) == [10, 10, 20, 255]
    image.VOILUTSequence = table(0, [0, 1000, 2000, 4095], 12)
    assert gray_of(image) == [0, 62, 125, 255]
    del image.VOILUTSequence
    image.ModalityLUTSequence = table(0, [500, 300, 300, 100], 16)
    assert gray_of(image) == [255, 128, 128, 0]


def test_dicom_tables_may_have_all_entries(pydicom):
    image = dicom(np.array([[0, 32768, 65535]], np.uint16))
    image.ModalityLUTSequence = table(0, [5] * 32768 + [7] * 32767 + [9], 16)
    assert image.ModalityLUTSequence[0].LUTDescriptor[0] == 0  # 65536 does not fit
    assert gray_of(image) == [0, 128, 255]


def test_dicom_colours_come_through(pydicom):
    colours = np.asarray(ramp(height=5, width=4))
    np.testing.assert_array_equal(pixels_of(dump(dicom(colours, "RGB"))), colours)
    planes = dicom(colours, "RGB", PlanarConfiguration=1)
    planes.PixelData = colours.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(pixels_of(dump(planes)), colours)
    deep = dicom(colours.astype(np.uint16) * 257, "RGB")
    np.testing.assert_array_equal(pixels_of(dump(deep)), colours)


def test_dicom_of_luminance_and_chrominance_becomes_rgb(pydicom):
    colours = ramp(height=5, width=4)
    data = dump(dicom(np.asarray(colours.convert("YCbCr")), "YBR_FULL"))
    assert np.abs(pixels_of(data) - np.asarray(colours).astype(int)).max() <= 2
    assert images.decode(io.BytesIO(data), "x").mode == "YBR_FULL"
    deep = dicom(np.asarray(colours).astype(np.uint16) * 257, "YBR_FULL")
    assert "uint16" in refusal(dump(deep))  # pydicom cannot convert it


def test_dicom_palettes_become_rgb(pydicom):
    image = dicom(np.array([[0, 1, 2, 9]], np.uint8), "PALETTE COLOR")
    entries = {"Red": [0, 65535, 0], "Green": [0, 0, 32896], "Blue": [257, 0, 65535]}
    for colour, values in entries.items():
        keyword = f"{colour}PaletteColorLookupTable"
        image.add_new(f"{keyword}Descriptor", "US", [3, 0, 16])
        image.add_new(f"{keyword}Data", "OW", np.array(values, "<u2").tobytes())
    wanted = [[0, 0, 1], [255, 0, 0], [0, 128, 255], [0, 128, 255]]
    assert pixels_of(dump(image))[0].tolist() == wanted
    del image.BluePaletteColorLookupTableData
    assert "BluePaletteColorLookupTableData is missing" in refusal(dump(image))


def test_dicom_run_lengths_and_floats_are_read(pydicom):
    image = dicom(np.repeat(LINE, 8, axis=0).astype(np.uint16))
    image.compress(pydicom.uid.RLELossless)
    assert gray_of(image) == [0, 64, 128, 255]
    image = dicom(LINE, BitsAllocated=32, FloatPixelData=(LINE / 7).astype("<f4").tobytes())
    del image.PixelData, image.BitsStored, image.HighBit, image.PixelRepresentation
    assert gray_of(image) == [0, 64, 128, 255]
    image.RescaleSlope = "1e300"  # and so 0 times infinity
    assert "not finite" in refusal(dump(image))
    image.FloatPixelData = np.array([0, 1, np.nan, 2], "<f4").tobytes()
    image.ModalityLUTSequence = table(0, [0, 1], 16)
    assert "not finite" in refusal(dump(image))


def test_dicom_holding_a_jpeg_is_read(pydicom):
    smooth = ramp().resize((64, 64))
    colours = np.asarray(smooth).astype(int)
    frame = encode(smooth, "JPEG", quality=95, subsampling=0)
    syntax = pydicom.uid.JPEGBaseline8Bit
    data = dump(compressed(np.asarray(smooth), "YBR_FULL_422", syntax, frame))
    assert np.abs(pixels_of(data) - colours).mean() < 4
    frame = encode(smooth, "JPEG2000", no_jp2=True, mct=1)
    syntax = pydicom.uid.JPEG2000Lossless
    data = dump(compressed(np.asarray(smooth), "YBR_RCT", syntax, frame))
    np.testing.assert_array_equal(pixels_of(data), colours)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_dicom_may_not_hide_a_larger_jpeg(pydicom, kind):
    uid = pydicom.uid
    syntax = {"JPEG": uid.JPEGBaseline8Bit, "JPEG2000": uid.JPEG2000Lossless}[kind]
    frame = encode(Image.new("L", (300, 200)), kind, **({} if kind == "JPEG" else {"no_jp2": True}))
    small = compressed(np.zeros((10, 10), np.uint8), "MONOCHROME2", syntax, frame)
    assert "not of 10 x 10 pixels" in refusal(dump(small))


def test_dicom_may_not_hold_a_jpeg_that_claims_too_much(pydicom):
    frame = jpeg_of_declared_size(9_999, 9_999)
    syntax = pydicom.uid.JPEGBaseline8Bit
    size = {"Rows": 9_999, "Columns": 9_999}
    before = peak_memory()
    data = dump(compressed(np.asarray(ramp()), "YBR_FULL_422", syntax, frame, **size))
    assert "truncated" in refusal(data)
    assert peak_memory() - before < 50


def test_dicom_may_not_hold_far_more_data_than_pixels(pydicom):
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 600_000  # 77 million pixels
    data = dump(compressed(LINE, "MONOCHROME2", pydicom.uid.RLELossless, runs))
    assert "compressed bytes for 4 x 1 pixels" in refusal(data)


def test_a_dicom_offset_table_cannot_point_past_the_checks(pydicom):
    frames = [encode(Image.new("L", size, 9), "JPEG") for size in ((10, 10), (300, 200))]
    syntax = pydicom.uid.JPEGBaseline8Bit
    image = compressed(np.zeros((10, 10), np.uint8), "MONOCHROME2", syntax, b"12")
    image.PixelData = pydicom.encaps.encapsulate(frames, has_bot=False)
    image.ExtendedOffsetTable = struct.pack("<Q", 8 + len(frames[0]) + len(frames[0]) % 2)
    image.ExtendedOffsetTableLengths = struct.pack("<Q", len(frames[1]))
    assert pixels_of(dump(image)).shape == (10, 10, 3)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.57"])
def test_dicom_without_a_decoder_says_what_to_install(pydicom, syntax):
    from pydicom.pixels import get_decoder

    if get_decoder(syntax).is_available:
        pytest.skip("there is one")
    data = dump(compressed(LINE, "MONOCHROME2", syntax, b"\xff\xd8\xff"))
    assert "pip install pylibjpeg" in refusal(data)


def test_dicom_needs_pydicom(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    message = refusal(bytes(128) + b"DICM" + bytes(100), "x.dcm")
    assert "pip install 'diffmic_jax[dicom]'" in message


def test_dicom_of_several_frames_is_refused(pydicom):
    image = dicom(np.zeros((4, 4), np.uint8), NumberOfFrames=3)
    image.PixelData = bytes(48)
    assert "it holds 3 frames" in refusal(dump(image))
    image.NumberOfFrames = 1
    image.PixelData = bytes(16)
    assert pixels_of(dump(image)).shape == (4, 4, 3)


@pytest.mark.parametrize("size", [60_000, 9_999])
def test_a_dicom_size_is_checked_before_the_pixels(pydicom, size):
    before = peak_memory()
    message = refusal(dump(dicom(LINE, Rows=size, Columns=size)))
    assert ("data.max_pixels" in message) == (size**2 > images.MAX_PIXELS)
    assert peak_memory() - before < 50
    assert "its size is 4 x 0" in refusal(dump(dicom(LINE, Rows=0)))


JUNK = [b"nan", b"inf", b"-inf", b"abc", b"1e999", b"1,5"]
FIELDS = ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"]
NO_NUMBERS = [(keyword, value) for keyword in FIELDS for value in JUNK]


@pytest.mark.parametrize(
    ("keyword", "value"), [*NO_NUMBERS, ("WindowWidth", b"0"), ("RescaleSlope", b"0")]
)
def test_dicom_numbers_that_are_none_are_refused_by_name(pydicom, keyword, value):
    other = {"WindowCenter": "WindowWidth", "WindowWidth": "WindowCenter"}.get(keyword)
    image = dicom(LINE, **({other: 5} if other else {}))
    assert f"its {keyword} is " in refusal(with_raw(image, keyword, value))


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("NumberOfFrames", "IS", b"x"),
        ("Rows", "DS", b"nan"),
        ("Columns", "CS", b"WIDE"),
        ("VOILUTFunction", "CS", b"CURVE"),
        ("PhotometricInterpretation", "CS", b"CMYK"),
    ],
)
def test_other_malformed_dicom_attributes_are_refused(pydicom, keyword, vr, value):
    image = dicom(LINE, WindowCenter=5, WindowWidth=5)
    message = refusal(with_raw(image, keyword, value, vr)).lower()
    assert keyword.lower() in message.replace(" ", "")


@pytest.mark.parametrize(("width", "function"), [(-5, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID")])
def test_dicom_windows_that_cannot_be_are_refused(pydicom, width, function):
    image = dicom(LINE, WindowCenter=100, WindowWidth=width, VOILUTFunction=function)
    assert f"its WindowWidth is {width}" in refusal(dump(image))
    del image.WindowWidth
    assert "WindowWidth is missing" in refusal(dump(image))


def test_dicom_values_that_overflow_are_refused(pydicom):
    image = dicom(LINE, WindowCenter="1", WindowWidth="10")
    assert "not finite" in refusal(with_raw(image, "RescaleSlope", b"1e308"))


def test_dicom_tables_that_do_not_fit_are_refused(pydicom):
    for entries, bits in ([[0, 300], 8], [[0, 1], 17], [[0, 1], 0]):
        image = dicom(LINE, VOILUTSequence=table(0, entries, bits))
        assert "LUTDescriptor does not fit" in refusal(dump(image))
    image = dicom(LINE, VOILUTSequence=table(0, [0, 1], 8))
    image.VOILUTSequence[0].LUTDescriptor = [5, 0, 8]
    assert "LUTDescriptor does not fit" in refusal(dump(image))
    image.VOILUTSequence[0].add_new("LUTData", "SS", [0, -1, 0, 0, 0])
    assert "LUTDescriptor does not fit" in refusal(dump(image))
    del image.VOILUTSequence[0].LUTData
    assert "LUTData is missing" in refusal(dump(image))
    image.VOILUTSequence = 10 * table(0, [1] * 32768, 8)
    assert "VOILUTSequence is too long" in refusal(dump(image))


def test_dicom_that_is_no_image_is_refused(pydicom):
    image = dicom(LINE)
    del image.PixelData
    assert "not a DICOM image" in refusal(dump(image))
    deflated = dicom(LINE, syntax=pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert "deflated" in refusal(dump(deflated))


def test_dicom_that_keeps_its_parser_busy_is_refused(pydicom):
    data = dump(dicom(LINE))
    at = data.index(b"\x28\0\x02\0US")
    unending = struct.pack("<HH2sHI", 9, 0x1001, b"UN", 0, 0xFFFFFFFF) + b"abcd"
    tiny = struct.pack("<HH2sH", 0x29, 0x1000, b"LO", 0)
    for element, count in ((unending, 5_000), (tiny, 200_000)):
        assert "too many elements" in refusal(data[:at] + count * element + data[at:])
    nested = (
        struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\0\xe0" + b"\xff" * 4
    )
    refusal(data[:at] + 5_000 * nested + data[at:])


# Damage.


def specimens() -> dict[str, bytes]:
    """Small valid files of every kind, by a name with their usual extension."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "some maker"
    files = {
        "rgb.png": encode(ramp(), exif=exif),
        "palette.png": encode(ramp("P"), transparency=3),
        "deep.png": encode(gray16([1, 2, 40_000, 3])),
        "animated.png": encode(ramp(), save_all=True, append_images=[ramp().rotate(180)]),
        "baseline.jpg": encode(ramp(), "JPEG", exif=exif),
        "progressive.jpg": encode(ramp(), "JPEG", progressive=True),
        "cmyk.jpg": encode(ramp("CMYK"), "JPEG"),
        "phone.jpg": encode(ramp(), "MPO", save_all=True, append_images=[ramp()]),
        "raw.tif": encode(ramp(), "TIFF"),
        "lzw.tif": encode(ramp(), "TIFF", compression="tiff_lzw"),
        "float.tif": encode(Image.new("F", (9, 6), 0.5), "TIFF"),
        "pages.tif": encode(ramp(), "TIFF", save_all=True, append_images=[ramp()]),
        "rgb.bmp": encode(ramp(), "BMP"),
        "palette.bmp": encode(ramp("P"), "BMP"),
        "lossy.webp": encode(ramp(), "WEBP", exif=exif),
        "lossless.webp": encode(ramp(), "WEBP", lossless=True),
        "still.gif": encode(ramp("P"), "GIF"),
        "animated.gif": encode(ramp("P"), "GIF", save_all=True, append_images=[ramp("L")]),
    }
    try:
        import pydicom
    except ImportError:
        return files
    colours = np.asarray(ramp())
    window = {"WindowCenter": 100, "WindowWidth": 50, "RescaleSlope": 2, "RescaleIntercept": 1}
    run_lengths = dicom(np.repeat(LINE, 8, axis=0))
    run_lengths.compress(pydicom.uid.RLELossless)
    jpeg = compressed(colours, "YBR_FULL_422", pydicom.uid.JPEGBaseline8Bit, encode(ramp(), "JPEG"))
    return files | {
        "gray.dcm": dump(dicom(LINE)),
        "window.dcm": dump(dicom(LINE.astype(np.int16), "MONOCHROME1", **window)),
        "table.dcm": dump(dicom(LINE, VOILUTSequence=table(0, list(range(200)), 8))),
        "implicit.dcm": dump(dicom(LINE, syntax=pydicom.uid.ImplicitVRLittleEndian)),
        "rgb.dcm": dump(dicom(colours, "RGB")),
        "run lengths.dcm": dump(run_lengths),
        "jpeg.dcm": dump(jpeg),
    }


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        # Half of them in the header, where they do most.
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 300))
        damaged[at] = rng.choice([0, 255, damaged[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return bytes(damaged)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice([2, 4, 4, 8, 64])
    patch = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length), b"nan " * length])
    return data[:at] + patch[:length] + data[at + length :]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 2, 4, 50]) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.sample(range(len(data) + 1), 2))
    return data[:stop] + data[start:]


def check_outcome(data: bytes, name: str) -> bool:
    """Decodes, or is refused properly; tells which."""
    try:
        pixels = pixels_of(data, name)
    except InputError as error:
        checked(error, name)
        return False
    assert pixels.size > 0
    return True


def test_damaged_files_are_read_or_refused():
    rng = random.Random(0)
    files = specimens()
    refused = {
        name for name in files if name.endswith(".gif") or "animated" in name or "pages" in name
    }
    outcomes = []
    before = peak_memory()
    for name, data in files.items():
        assert check_outcome(data, name) == (name not in refused)
        for damage in (truncate, flip, flip, flip, overwrite, overwrite, cut_out, repeat):
            outcomes += [check_outcome(damage(data, rng), name) for _ in range(5)]
        for other in rng.sample(sorted(files), 2):
            outcomes.append(check_outcome(data + files[other], name))  # one file after another
            outcomes.append(check_outcome(data, other))  # one called like another
    assert len(outcomes) >= 18 * 44
    assert 0.1 < np.mean(outcomes) < 0.9
    assert peak_memory() - before < 1000


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp", "x.webp", "x.dcm"])
def test_garbage_is_refused(name):
    rng = random.Random(1)
    if name == "x.dcm":
        pytest.importorskip("pydicom")
    starts = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0", b"MM\0*"]
    starts += [b"BM", b"RIFF\x40\0\0\0WEBPVP8 ", b"GIF89a", b"a text\nof two lines"]
    starts += [bytes(128) + b"DICM", bytes(500)]
    for start in starts:
        for length in (0, 1, 20, 400):
            assert not check_outcome(start + rng.randbytes(length), name)

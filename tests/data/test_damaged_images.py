from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.errors import InputError
from tests.data.dicoms import LINE, compressed, dicom, dump, table
from tests.data.pictures import checked, encode, gray16, peak_memory, pixels_of, ramp


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
    """The outcome: decoded, or properly refused."""
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
            outcomes.append(check_outcome(data, other))  # with the name of another kind
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

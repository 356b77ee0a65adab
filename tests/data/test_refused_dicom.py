"""DICOM files that are refused: frames, sizes, hidden data and values that cannot be."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.data import images
from tests.data.dicoms import LINE, compressed, dicom, dump, table, with_raw
from tests.data.pictures import encode, jpeg_of_declared_size, peak_memory, pixels_of, ramp, refusal


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

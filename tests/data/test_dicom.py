"""DICOM files that are read."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from diffmic_jax.data import images
from tests.data.dicoms import LINE, compressed, dicom, dump, gray_of, table
from tests.data.pictures import encode, pixels_of, ramp, refusal


def test_dicom_without_a_window_goes_from_darkest_to_brightest(pydicom):
    assert gray_of(dicom(LINE + 55)) == [0, 64, 128, 255]
    assert gray_of(dicom(LINE.astype(np.int16) * 100 - 3000)) == [0, 64, 128, 255]
    assert gray_of(dicom(np.full((1, 4), 7, np.uint8))) == [0] * 4


def test_dicom_monochrome1_is_inverted(pydicom):
    image = dicom(LINE, "MONOCHROME1")
    assert gray_of(image) == [255, 191, 127, 0]
    assert images.decode(io.BytesIO(dump(image)), "x").mode == "MONOCHROME1"


def test_dicom_is_recognised_by_its_magic_or_its_extension(pydicom, tmp_path):
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


def test_a_dicom_palette_in_segments_is_refused_by_that(pydicom):
    image = dicom(LINE, "PALETTE COLOR", SegmentedRedPaletteColorLookupTableData=b"\0\0")
    assert "its palette is in segments" in refusal(dump(image))


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


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.57"])
def test_dicom_without_a_decoder_names_what_to_install(pydicom, syntax):
    from pydicom.pixels import get_decoder

    if get_decoder(syntax).is_available:
        pytest.skip("there is one")
    data = dump(compressed(LINE, "MONOCHROME2", syntax, b"\xff\xd8\xff"))
    assert "pip install pylibjpeg" in refusal(data)


def test_dicom_needs_pydicom(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    message = refusal(bytes(128) + b"DICM" + bytes(100), "x.dcm")
    assert "pip install 'diffmic_jax[dicom]'" in message


def test_a_dicom_window_that_misses_all_values_gives_way_to_their_range(pydicom):
    image = dicom(LINE, WindowCenter=5000, WindowWidth=10)
    decoded = images.decode(io.BytesIO(dump(image)))
    assert decoded.pixels[0, :, 0].tolist() == gray_of(dicom(LINE))
    assert "its window leaves one shade" in decoded.note
    assert not images.decode(io.BytesIO(dump(dicom(LINE)))).note


def test_a_dicom_shape_of_inverse_is_honoured_once(pydicom):
    plain = np.array(gray_of(dicom(LINE)))
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        image = dicom(LINE, photometric, PresentationLUTShape="INVERSE")
        np.testing.assert_array_equal(gray_of(image), 255 - plain)
    assert gray_of(dicom(LINE, PresentationLUTShape="IDENTITY")) == plain.tolist()


def test_an_empty_dicom_table_is_none(pydicom):
    from pydicom import dataset

    image = dicom(LINE, VOILUTSequence=[dataset.Dataset()], ModalityLUTSequence=[dataset.Dataset()])
    assert gray_of(image) == gray_of(dicom(LINE))
    for sequence in (image.VOILUTSequence, image.ModalityLUTSequence):
        sequence[0].add_new("LUTDescriptor", "US", None)
        sequence[0].add_new("LUTData", "US", None)
    assert gray_of(image) == gray_of(dicom(LINE))

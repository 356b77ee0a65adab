"""DICOM files, as pydicom writes them and as it would not."""

from __future__ import annotations

import io
import struct

import numpy as np

from tests.data.pictures import pixels_of

LINE = np.array([[0, 50, 100, 200]], np.uint8)


def dicom(array: np.ndarray, photometric: str = "MONOCHROME2", syntax: str = "", **attributes):
    """A data set of one image, by default in explicit little endian."""
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

"""DICOM files, read with pydicom, which is an optional dependency.

Attributes are named by their keywords in the standard.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import MutableSequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffmic_jax.data.pixels import (
    Decoded,
    Refused,
    blockwise,
    check_frames,
    check_ratio,
    check_scans,
    check_size,
    scale,
    stack,
)
from diffmic_jax.extras import install_command

_MORE_DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress it"
_LONGEST_SEQUENCE = 2**19  # bytes; a table has 128 KiB at most
# JPEG markers in front of a frame's size: SOF0 to SOF15 without DHT, JPG and DAC; JPEG-LS's SOF55.
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}


def decode_dicom(data: bytes, max_pixels: int) -> Decoded:
    """The pixels of a DICOM file as it is to be displayed, see `images.decode`.

    Raises:
        Refused: the image cannot be used; damage can raise any other exception.
    """
    dataset = _parse(data)
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    check_size(_whole(dataset, "Columns"), _whole(dataset, "Rows"), max_pixels)
    check_frames(_whole(dataset, "NumberOfFrames", 1))
    stored, properties = _stored_pixels(dataset)
    note = ""
    if photometric.startswith("MONOCHROME") and stored.ndim == 2:
        shape = str(dataset.get("PresentationLUTShape", ""))
        # MONOCHROME1 is stored with INVERSE: both state the same inversion.
        inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
        gray, note = _display(dataset, stored, inverted)
        pixels = stack(gray)
    elif photometric == "PALETTE COLOR" and stored.ndim == 2:
        pixels = _colour_by_palette(dataset, stored)
    elif properties["photometric_interpretation"] == "RGB" and stored.ndim == 3:
        pixels = scale(stored, 0, 2 ** properties["bits_stored"] - 1)
    else:
        raise Refused(f"its photometric interpretation {photometric!r} is not supported")
    return Decoded(pixels, photometric, note=note)


class _LimitedReads(io.BytesIO):
    """Content with a limited number of reads and of bytes read.

    Crafted elements of undefined length make pydicom search for the end of each up to the end of
    the file, and tiny ones take it minutes.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._reads_left = 2**17
        self._bytes_left = 8 * len(data) + 2**20

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file does.

        Raises:
            Refused: a limit is reached.
        """
        content = super().read(size)
        self._reads_left -= 1
        self._bytes_left -= len(content)
        if min(self._reads_left, self._bytes_left) < 0:
            raise Refused("DICOM with too many elements for one image, or damaged")
        return content


def _parse(data: bytes) -> Any:
    """The data set of a DICOM file, values still undecoded."""
    try:
        import pydicom.pixels  # since version 3
        from pydicom import uid
    except ImportError as error:
        fix = install_command("dicom")
        raise Refused("it is DICOM, for which pydicom is missing", fix) from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it logs each warning as well
    if uid.DeflatedExplicitVRLittleEndian.encode() in data:
        # Reading would inflate it as a whole, without a limit to its size.
        raise Refused("it is deflated DICOM", "save it with another transfer syntax")
    dataset = pydicom.dcmread(_LimitedReads(data), force=data[128:132] != b"DICM")
    if not any(f"{kind}PixelData" in dataset for kind in ("", "Float", "DoubleFloat")):
        kind = str(getattr(dataset.file_meta.get("MediaStorageSOPClassUID"), "name", ""))
        raise Refused(f"not a DICOM image{f' but {kind}' if kind else ''}, or damaged")
    if not dataset.file_meta.get("TransferSyntaxUID"):  # no header, hence never compressed
        implicit, little = dataset.original_encoding
        native = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else native
    return dataset


def _stored_pixels(dataset: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels before any display table, [H, W] or as RGB [H, W, 3], and their properties."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise Refused(f"no decoder for {syntax.name} is installed", _MORE_DECODERS)
    if syntax.is_encapsulated:
        _check_compressed(dataset)
    try:
        return decoder.as_array(dataset, index=0)
    except RuntimeError as error:  # 'Unable to decode, because all plugins did not: why'
        reason = str(error).partition(":")[2] or str(error)
        raise Refused(
            f"{syntax.name}, {reason.strip()}", f"replace it, {_MORE_DECODERS}"
        ) from error


def _check_compressed(dataset: Any) -> None:
    """Refuse compressed pixels of another size than the data set states, or far too many bytes."""
    from pydicom import encaps, uid

    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:  # one frame needs none, and it could point at another one
            del dataset[keyword]
    frame = encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    width, height = _whole(dataset, "Columns"), _whole(dataset, "Rows")
    if len(frame) > 16 * width * height + 2**20:  # run lengths could unfold to 64 times of it
        raise Refused(f"{len(frame)} compressed bytes for {width} x {height} pixels")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in (uid.RLELossless, *uid.JPEGTransferSyntaxes):  # JPEG-LS and 2000 have no limit
        check_ratio(width, height, frame)
    if syntax == uid.RLELossless:
        return  # has no header of its own
    if _compressed_size(frame) != (width, height):
        raise Refused(f"its compressed data are not of {width} x {height} pixels")
    check_scans(frame)


def _compressed_size(frame: bytes) -> tuple[int, int]:
    """Width and height in the header of a JPEG 2000 or, of any kind, a JPEG."""
    if not frame.startswith(b"\xff\xd8"):
        try:
            return Image.open(io.BytesIO(frame), formats=("JPEG2000",)).size
        except UnidentifiedImageError as error:
            raise Refused("damaged, neither a JPEG nor a JPEG 2000") from error
    at = 2
    while frame[at] == 0xFF:
        if frame[at + 1] in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return width, height
        # A marker is two bytes and its segment; any more 0xFF in front of it are padding.
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise Refused("damaged, a JPEG without a frame header")


def _colour_by_palette(dataset: Any, stored: np.ndarray) -> np.ndarray:
    colours = []
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTable"
        if f"Segmented{keyword}Data" in dataset:
            raise Refused("its palette is in segments", "save it as RGB")
        table = _table(dataset, keyword, dataset)
        colours.append(table.scaled().look_up(stored))
    return np.stack(colours, axis=-1)


def _display(dataset: Any, stored: np.ndarray, inverted: bool) -> tuple[np.ndarray, str]:
    """Gray pixels as they are to be displayed, [H, W] uint8, and a note on what was wrong."""
    values = _modality(dataset, stored)
    low, high = _range(values)
    holder, note = _first_item(dataset, "VOILUTSequence"), ""
    window = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if holder is not None:
        gray = _table(holder, "LUT", dataset).scaled().look_up(values)
    elif window == (None, None):
        gray = scale(values, low, high)
    else:
        gray = _window(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR"))
    if gray.min() == gray.max() and low != high:  # a window that misses all values
        gray = scale(values, low, high)
        note = (
            "its window leaves one shade of gray, so it is shown from its darkest to its brightest"
            " pixel"
        )
    return 255 - gray if inverted else gray, note


def _modality(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Stored values in the unit of the device, such as Hounsfield's."""
    _range(stored)
    holder = _first_item(dataset, "ModalityLUTSequence")
    if holder is not None:
        return _table(holder, "LUT", dataset).look_up(stored)
    slope, intercept = _given(dataset, "RescaleSlope", 1), _given(dataset, "RescaleIntercept", 0)
    if not slope:
        raise Refused("its RescaleSlope is 0")
    if (slope, intercept) == (1, 0):
        return stored
    with np.errstate(over="ignore", invalid="ignore"):  # `_display` checks
        return stored * slope + intercept


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low + high):
        raise Refused("some of its pixels are not finite numbers")
    return low, high


def _window(
    values: np.ndarray, centre: float | None, width: float | None, function: str
) -> np.ndarray:
    """Through a window; its functions are those of PS3.3, C.11.2.1."""
    if centre is None or width is None:
        raise Refused("its WindowCenter or WindowWidth is missing")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise Refused(f"its WindowWidth is {width:g}")
    if function == "LINEAR":  # from the centre of the first value to the centre of the last
        return scale(values, centre - width / 2, centre + width / 2 - 1)
    if function == "LINEAR_EXACT":
        return scale(values, centre - width / 2, centre + width / 2)
    if function == "SIGMOID":
        return _sigmoid(values, centre, width)
    raise Refused(f"its VOILUTFunction {function!r} is unknown")


def _sigmoid(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    def curve(block: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # the hyperbolic tangent of infinity is 1
            # 1 / (1 + exp(-4 x)), without the exponential's overflow.
            return np.rint(127.5 * (1 + np.tanh(2 * (block - centre) / width)))

    return blockwise(curve, values, np.uint8)


class _Table(NamedTuple):
    """A look-up table."""

    entries: np.ndarray
    first: int
    """The value of the first entry; values beyond an end have the entry at that end."""
    top: int
    """The largest value that an entry could have."""

    def scaled(self) -> _Table:
        """The same with entries scaled to 0..255."""
        return self._replace(entries=scale(self.entries, 0, self.top))

    def look_up(self, values: np.ndarray) -> np.ndarray:
        last = len(self.entries) - 1

        def entry(block: np.ndarray) -> np.ndarray:
            return self.entries[np.clip(np.rint(block) - self.first, 0, last).astype(np.intp)]

        return blockwise(entry, values, self.entries.dtype)


def _first_item(dataset: Any, keyword: str) -> Any:
    """The first data set of a sequence; None if there is none, or if its table is empty."""
    if getattr(dataset.get_item(keyword), "length", 0) > _LONGEST_SEQUENCE:
        raise Refused(f"its {keyword} is too long")
    items = dataset.get(keyword)  # parsed only now, without the limits of `_LimitedReads`
    first = items[0] if items else None
    given = [] if first is None else [first.get(f"LUT{what}") for what in ("Descriptor", "Data")]
    empty: tuple[object, ...] = (None, "", b"", [])
    return None if all(value in empty for value in given) else first


def _table(holder: Any, kind: str, dataset: Any) -> _Table:
    """Read a table's descriptor (number of entries, first value, bits of an entry) and its data."""
    descriptor, data = holder.get(f"{kind}Descriptor"), holder.get(f"{kind}Data")
    if descriptor is None or data is None:
        raise Refused(f"its {kind}Descriptor or {kind}Data is missing")
    try:
        count, first, bits = map(int, descriptor)
    except (TypeError, ValueError) as error:
        raise Refused(f"its {kind}Descriptor is not three numbers") from error
    count = count % 2**16 or 2**16  # it has 16 bits: all entries are written as 0
    entries = _entries(data, count, dataset.original_encoding[1])
    fits = 8 <= bits <= 16 and len(entries) >= count
    if not fits or entries.min() < 0 or entries.max() >= 2**bits:
        raise Refused(f"its {kind}Descriptor does not fit its {kind}Data")
    return _Table(entries[:count].astype(np.uint16), first, 2**bits - 1)


def _entries(data: Any, count: int, little_endian: bool) -> np.ndarray:
    """Entries that pydicom gives as a number, as numbers, or as bytes, two or one for an entry."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, np.int64))
    if len(data) >= 2 * count:
        return np.frombuffer(data[: 2 * count], "<u2" if little_endian else ">u2")
    return np.frombuffer(data, np.uint8)


def _number(dataset: Any, keyword: str) -> float | None:
    """The first value of an attribute, None if it is missing or empty."""
    try:
        value = dataset.get(keyword)
        first = value[0] if isinstance(value, MutableSequence) else value
        number = None if first in (None, "") else float(first)
    except Exception as error:  # as in `decode`
        raise Refused(f"its {keyword} is not a number") from error
    if number is not None and not math.isfinite(number):
        raise Refused(f"its {keyword} is {number}")
    return number


def _given(dataset: Any, keyword: str, default: float | None = None) -> float:
    """The first value of an attribute, or its default."""
    number = _number(dataset, keyword)
    if number is None:
        number = default
    if number is None:
        raise Refused(f"its {keyword} is missing")
    return number


def _whole(dataset: Any, keyword: str, default: int | None = None) -> int:
    number = _given(dataset, keyword, default)
    if number != int(number):
        raise Refused(f"its {keyword} is {number:g}")
    return int(number)

"""Small pictures as files, written by hand where no library would."""

from __future__ import annotations

import io
import struct
import zlib
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


def gray16(values: list[int], dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


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


def peak_memory() -> float:
    """In MiB, of this process so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

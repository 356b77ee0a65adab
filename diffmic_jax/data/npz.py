"""Arrays in NPZ files, whose sizes are checked before they are believed."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

_UNPACKED, _MOST_RATIO = 2**26, 200
"""An array unpacks to so many bytes, and so many times its packed ones, at most."""


def read_array(path: Path, name: str, *, mapped: bool = False) -> np.ndarray:
    """One array of an NPZ, its checksum checked; or mapped, where it is stored uncompressed.

    Raises:
      ValueError: it is larger than the file or its compression allows, or holds objects.
      Exception: the file is damaged or has no such array.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.file_size > _UNPACKED + _MOST_RATIO * member.compress_size:
            raise ValueError(f"{name} unpacks to {member.file_size} bytes, perhaps a bomb")
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read_header(file)
            header = file.tell()
            if dtype.hasobject or min(shape, default=0) < 0:
                raise ValueError(f"{name} has type {dtype}, shape {shape}")
            if header + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(f"{name} of shape {shape} does not have its size")
            if member.compress_type != zipfile.ZIP_STORED or not mapped:
                flat = np.frombuffer(file.read(), dtype)
                return flat.reshape(shape, order="F" if fortran else "C")
    with path.open("rb") as raw:
        # The lengths of the name and of the extra field in the member's own header.
        raw.seek(member.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), "<u2")
    offset = member.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")

"""What an audit keeps of every image: its form, its edges, a digest, and a few small copies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import fft
from tqdm import tqdm

from diffmic_jax.data.layouts import Read, Record
from diffmic_jax.data.sources import Source
from diffmic_jax.errors import InputError

THUMBNAIL, KEPT = 32, 16  # sides: pixels, frequencies that are correlated
_HASHED = 8  # side: frequencies that are hashed
_FLAT = 1.0  # gray levels; the thumbnail of a picture has a larger standard deviation
_EVEN = 12  # gray levels; within a row of a border they differ by no more, in a JPEG as well
_CHUNK = 512  # images in the thread pool at once

# Frequencies count by their square root: what all images of a kind share, such as a vignette or the
# fan of an ultrasound probe, is in the lowest ones.
_WEIGHT = np.sqrt(np.hypot(*np.indices((KEPT, KEPT))))


class View(NamedTuple):
    """What is kept of an image."""

    width: int
    height: int
    mode: str
    """How it was stored, see `Decoded`."""
    ending: str
    """Of its file, in lower case; '' where images have no files of their own."""
    border: tuple[float, ...]
    """Share of the side that is one even border, at the top, bottom, left and right, and its gray
    level 0..255; -1 without a border."""
    constant: bool
    """Of a single colour."""
    digest: bytes
    """Equal where size and pixels are."""
    hash: int
    spectrum: np.ndarray
    """[16, 16] float32, see `fingerprint`."""
    thumbnail: np.ndarray
    """[32, 32, 3] uint8."""


Views = Mapping[int, View]
"""By position in `Source.records`; images that cannot be read are absent."""


def read_views(
    source: Source, num_threads: int = 0, progress: bool = True
) -> tuple[Views, list[dict[str, str]]]:
    """Decode every image.

    Args:
        source: what to read.
        num_threads: that decode; 0: one for each core.
        progress: show a bar on standard error, if that is a terminal.

    Returns:
        A view of every image that can be read; `id` and `reason` of all others.
    """
    records = source.records
    views: dict[int, View] = {}
    bad: list[dict[str, str]] = []
    read = partial(_view, source.read, files=not source.files)
    hidden = None if progress else True
    bar = tqdm(total=len(records), unit="image", desc="audit", leave=False, disable=hidden)
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool, bar:
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            for position, view in enumerate(pool.map(read, chunk), start):
                bar.update()
                if isinstance(view, InputError):
                    bad.append({"id": records[position].id, "reason": str(view)})
                else:
                    views[position] = view
    return views, bad


def _view(read: Read, record: Record, files: bool) -> View | InputError:
    try:
        pixels, mode, *_ = read(record)
    except InputError as error:
        return error
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(pixels.data)
    constant = bool((pixels == pixels[0, 0]).all())
    image = Image.fromarray(pixels)
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return View(
        width,
        height,
        mode,
        Path(record.path).suffix.lower() if files else "",
        border_of(np.asarray(image.convert("L"))),
        constant,
        digest.digest(),
        *fingerprint(pixels),
        np.asarray(small),
    )


def border_of(gray: np.ndarray) -> tuple[float, ...]:
    """The even border of an image [H, W] uint8, as in `View.border`."""
    shares, levels = [], []
    for lines in (gray, gray[::-1], gray.T, gray.T[::-1]):
        count = _even_lines(lines)
        shares.append(count / len(lines))
        levels += [float(lines[:count].mean())] if count else []
    return (*shares, float(np.mean(levels)) if levels else -1.0)


def _even_lines(lines: np.ndarray) -> int:
    """How many lines [N, M] from the first on are of one gray level, and of the same."""
    low, high = lines.min(axis=1).astype(int), lines.max(axis=1).astype(int)
    even = np.maximum.accumulate(high) - np.minimum.accumulate(low) <= _EVEN
    return int(even.argmin()) if not even.all() else len(lines)


def fingerprint(pixels: np.ndarray) -> tuple[int, np.ndarray]:
    """A hash and the low frequencies of an image, both without brightness and contrast.

    Args:
        pixels: [H, W, 3] uint8.

    Returns:
        A 64-bit hash: which of the lowest 8 x 8 frequencies of a cosine transform of the image, as
        32 x 32 gray pixels, exceed their median. The constant one is left out, its bit is 0.

        The lowest 16 x 16 frequencies without the constant one, [16, 16] float32 of norm 1. The sum
        of the product of two of them is their correlation. High frequencies have a larger weight
        than in the pixels. All 0 if the image shows nothing at that size.
    """
    size = (THUMBNAIL, THUMBNAIL)
    small = Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BILINEAR)
    gray = np.asarray(small, np.float64)
    kept = fft.dctn(gray, norm="ortho")[:KEPT, :KEPT]
    weighted = kept * _WEIGHT
    if gray.std() < _FLAT or not (norm := np.linalg.norm(weighted)):
        return 0, np.zeros((KEPT, KEPT), np.float32)
    return _hash(kept[:_HASHED, :_HASHED].ravel()), (weighted / norm).astype(np.float32)


def _hash(low: np.ndarray) -> int:
    """A bit for each of 64 frequencies, the first one constant."""
    # Symmetry makes some of them 0, up to rounding errors whose signs mean nothing.
    low = low.round(6)
    bits = low > np.median(low[1:])
    bits[0] = False
    return int(np.packbits(bits).view(">u8")[0])

"""The placental phantom: B-mode-like images in four grades, generated from a seed.

It replaces placental ultrasound collections that are not public. The grades follow Grannum,
Berkowitz and Hobbins (1979): the chorionic plate is smooth (grade 0), undulates (1), is indented
without the indentations reaching the basal layer, which shows echogenic dots (2), or is cut down
to the basal plate into cotyledons, with calcifications that cast shadows (3). How the picture is
taken (probe, gain, depth, side of the uterus, speckle) does not depend on the grade, and an
automatic gain keeps the overall brightness from revealing it.

An image is made in the coordinates of the beam, `s` across the fan in [-1, 1] and `z` along the
beam in [0, 1], where attenuation and shadows are plain products along one axis; scan conversion
then bends the frame into a fan.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # loads ndimage when it is used: most commands draw no phantom
from numpy.random import Generator

GRADES = ("grade0", "grade1", "grade2", "grade3")
COUNTS = (518, 501, 548, 531)
"""Images of each grade, 2,098 in all."""
TRAIN_FRACTION = 0.8

Range = tuple[float, float]
Count = tuple[int, int]
_SAMPLES, _LINES = 160, 112
_Z = np.linspace(0, 1, _SAMPLES)[:, None]
_S = np.linspace(-1, 1, _LINES)
_ASPECT = 0.5
"""Length of a unit of s over that of a unit of z, half-way down the fan."""


class Signs(NamedTuple):
    """What a grade looks like: uniform random numbers between two bounds, both included."""

    notches: Count
    """Number of full indentations of the chorionic plate."""
    notch_depth: Range
    """How deep they reach, as a fraction of the placenta's thickness."""
    ripple: float
    """Largest depth of the shallow undulations between them, likewise."""
    basal_foci: Count
    """Number of echogenic foci on the basal layer."""
    body_foci: Count
    """Number of echogenic foci inside the placenta."""
    focus_size: Range
    """Radius of a focus, in units of z."""
    shadow: Range
    """Loss on the way through the middle of a focus, in nepers."""


SIGNS = (
    Signs((0, 0), (0.00, 0.00), 0.05, (0, 0), (0, 2), (0.010, 0.014), (0.0, 0.2)),
    Signs((2, 5), (0.14, 0.32), 0.06, (0, 1), (0, 3), (0.010, 0.014), (0.0, 0.2)),
    Signs((1, 4), (0.40, 0.72), 0.14, (4, 10), (1, 5), (0.010, 0.018), (0.0, 0.5)),
    Signs((1, 4), (0.86, 1.00), 0.20, (6, 11), (2, 6), (0.014, 0.024), (0.5, 1.6)),
)


class Placenta(NamedTuple):
    """The anatomy in one image; lengths along the beam are in units of z, across it of s."""

    surface: np.ndarray
    """[3] coefficients of a parabola in s, highest power first: the plate without indentations."""
    thickness: float
    taper: float
    """Fraction of the thickness lost from the thickest place to one unit of s away."""
    center: float
    """Where across the fan the placenta is thickest."""
    notches: np.ndarray
    """[n, 3] position (s), depth (fraction of the thickness) and width (s)."""
    foci: np.ndarray
    """[m, 4] position (s), level (0 chorionic to 1 basal), radius (z) and loss (nepers)."""
    lakes: np.ndarray
    """[l, 4] venous lakes: position (s), level, radius (z) and darkness
    (nepers). Seen in every grade."""
    anterior: bool
    """Whether the placenta lies on the wall nearer the probe."""


class Scanner(NamedTuple):
    """The probe and its settings."""

    half_angle: float
    """Of the fan, radians."""
    probe_radius: float
    """Of the convex probe, as a fraction of the distance from the apex to the deepest arc."""
    attenuation: float
    """Loss at the deepest sample that no setting makes up for, in nepers."""
    speckle: tuple[float, float]
    """Standard deviation of the point spread along and across the beam, in samples."""
    brightness: float
    """Mean gray value before the gamma, in [0, 1]."""
    contrast: float
    """Standard deviation of the gray values, likewise."""
    gamma: float


@lru_cache(maxsize=8)
def records(seed: int) -> tuple[tuple[int, int, str], ...]:
    """Every image as (index, grade, split), split being `train` or `test`.

    The grades are shuffled over the indices; each grade is split 8:2 by itself.
    """
    order = np.random.default_rng(seed).permutation(sum(COUNTS))
    rows: list[tuple[int, int, str]] = []
    for grade, members in enumerate(np.split(order, np.cumsum(COUNTS)[:-1])):
        num_train = round(TRAIN_FRACTION * len(members))
        rows += [
            (int(index), grade, "train" if i < num_train else "test")
            for i, index in enumerate(members)
        ]
    return tuple(sorted(rows))


def generate(seed: int, index: int, size: int = 160) -> np.ndarray:
    """Image `index` of the phantom `seed`: [size, size] uint8, black outside the fan.

    A pure function of its arguments; `size` only changes the sampling of the same scene.

    Raises:
      IndexError: for an index outside the data set.
    """
    if not 0 <= index < sum(COUNTS):
        raise IndexError(f"the phantom has images 0 to {sum(COUNTS) - 1}, not {index}")
    rng = np.random.default_rng([seed, index])
    placenta = draw_placenta(rng, records(seed)[index][1])
    scanner = draw_scanner(rng)
    return scan_convert(beam_frame(placenta, scanner, rng), scanner, size)


def draw_placenta(rng: Generator, grade: int) -> Placenta:
    """An anatomy of the given grade; only notches and foci depend on the grade."""
    signs = SIGNS[grade]
    return Placenta(
        surface=rng.uniform((-0.10, -0.12, 0.36), (0.06, 0.12, 0.48)),
        thickness=rng.uniform(0.26, 0.36),
        taper=rng.uniform(0.0, 0.25),
        center=rng.uniform(-0.3, 0.3),
        notches=_draw_notches(rng, signs),
        foci=_draw_foci(rng, signs),
        lakes=rng.uniform((-0.7, 0.2, 0.01, 0.3), (0.7, 0.8, 0.035, 0.9), (rng.integers(0, 4), 4)),
        anterior=bool(rng.random() < 0.4),
    )


def _draw_notches(rng: Generator, signs: Signs) -> np.ndarray:
    """Full indentations and shallow undulations at places apart from each other."""
    places = np.linspace(-0.75, 0.75, 7) + rng.uniform(-0.08, 0.08, 7)
    depth = rng.uniform(0, signs.ripple, 7)
    full = rng.choice(np.arange(7), rng.integers(*signs.notches, endpoint=True), replace=False)
    depth[full] = rng.uniform(*signs.notch_depth, len(full))
    return np.stack([places, depth, rng.uniform(0.06, 0.10, 7)], axis=1)


def _draw_foci(rng: Generator, signs: Signs) -> np.ndarray:
    """Foci strung along a stretch of the basal layer, and some anywhere in the body."""
    basal = rng.integers(*signs.basal_foci, endpoint=True)
    body = rng.integers(*signs.body_foci, endpoint=True)
    start = rng.uniform(-0.8, 0.0)
    place = np.r_[rng.uniform(start, start + 0.8, basal), rng.uniform(-0.8, 0.8, body)]
    level = np.r_[rng.uniform(0.88, 1.0, basal), rng.uniform(0.2, 0.85, body)]
    n = basal + body
    return np.stack(
        [place, level, rng.uniform(*signs.focus_size, n), rng.uniform(*signs.shadow, n)], axis=1
    )


def draw_scanner(rng: Generator) -> Scanner:
    """A probe and its settings, which do not depend on the grade."""
    return Scanner(
        half_angle=np.deg2rad(rng.uniform(27, 36)),
        probe_radius=rng.uniform(0.15, 0.28),
        attenuation=rng.uniform(0.2, 1.2),
        speckle=(rng.uniform(0.7, 1.3), rng.uniform(0.9, 1.8)),
        brightness=rng.uniform(0.30, 0.48),
        contrast=rng.uniform(0.15, 0.24),
        gamma=rng.uniform(0.8, 1.25),
    )


def level_depth(placenta: Placenta, s: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """Depth z of a level of the placenta: 0 the unindented chorionic plate, 1 the basal layer."""
    thickness = placenta.thickness * (1 - placenta.taper * np.abs(s - placenta.center))
    return np.polyval(placenta.surface, s) + level * thickness


def indentation(placenta: Placenta, s: np.ndarray) -> np.ndarray:
    """Level that the chorionic plate sinks to at each s: 0 where smooth, 1 at the basal layer."""
    place, depth, width = placenta.notches.T
    # Between a bell and a peak: indentations are narrow and pointed.
    shape = np.exp(-((np.abs(s[..., None] - place) / width) ** 1.4))
    return np.max(depth * shape, axis=-1)


def beam_frame(placenta: Placenta, scanner: Scanner, rng: Generator) -> np.ndarray:
    """What the probe records of a placenta: [samples, lines] gray values in [0, 1]."""
    place, level, radius, loss = placenta.foci.T
    where = place, level_depth(placenta, place, level), radius
    amplitude = _tissue(placenta, rng) + _bells(*where, 1.2)
    # A bell's integral is sqrt(pi) times its radius.
    stopping = _bells(*where, loss / (np.sqrt(np.pi) * radius * _SAMPLES))
    if placenta.anterior:
        amplitude, stopping = amplitude[::-1], stopping[::-1]
    amplitude = _add_wall(amplitude, rng)
    # Every sample is attenuated by all the samples above it.
    passed = np.exp(-np.cumsum(stopping, axis=0) - scanner.attenuation * _Z)
    # Many scatterers in a resolution cell add up to a complex normal: a Rayleigh envelope.
    scatter = rng.standard_normal((2, _SAMPLES, _LINES), dtype=np.float32)
    scatter *= amplitude * passed
    echo = scipy.ndimage.gaussian_filter(scatter, (0, *scanner.speckle), truncate=3)
    return _compress(np.hypot(*echo), scanner)


def _tissue(placenta: Placenta, rng: Generator) -> np.ndarray:
    """Scattering amplitude of a posterior placenta and what is around it: [samples, lines]."""
    dent = indentation(placenta, _S)
    plate, basal = level_depth(placenta, _S, dent), level_depth(placenta, _S, 1.0)
    texture = np.exp(0.25 * _smooth_noise(rng, 10))
    place, level, radius, darkness = placenta.lakes.T
    lakes = _bells(place, level_depth(placenta, place, level), radius, darkness)
    # From the opposite wall of the uterus through fluid to the placenta, the hypoechoic
    # myometrium and the tissue behind it.
    amplitude = _fill(np.full_like(texture, 0.2), 0.01, _Z - rng.uniform(0.03, 0.16))
    amplitude = _fill(amplitude, 0.30 * np.exp(-lakes), _Z - plate)
    amplitude = _fill(amplitude, 0.14, _Z - basal)
    amplitude = texture * _fill(amplitude, 0.24, _Z - basal - 0.10)
    # The plate keeps its width on steep flanks: distances are taken along its normal.
    normal = np.hypot(1, np.gradient(plate, _S) / _ASPECT)
    amplitude += 0.5 * np.exp(-(((_Z - plate) / (0.010 * normal)) ** 2))
    return amplitude + 0.25 * np.exp(-(((_Z - basal) / 0.008) ** 2))


def _fill(above: np.ndarray, below: np.ndarray | float, distance: np.ndarray) -> np.ndarray:
    """One tissue above a boundary, another below, with an edge about two samples soft."""
    weight = np.clip(distance * _SAMPLES / 2 + 0.5, 0, 1)
    return above + weight * (below - above)


def _bells(
    place: np.ndarray, depth: np.ndarray, radius: np.ndarray, height: np.ndarray | float
) -> np.ndarray:
    """Sum of round bells [n] at (place, depth), of a radius in z: [samples, lines]."""
    along = np.exp(-(((_Z - depth) / radius) ** 2))
    across = np.exp(-((_ASPECT * (_S[:, None] - place) / radius) ** 2))
    return (along * height) @ across.T


def _smooth_noise(rng: Generator, cells: int) -> np.ndarray:
    """Noise of unit variance at its nodes, `cells` of them each way: [samples, lines]."""
    nodes = rng.standard_normal((cells, cells))
    return scipy.ndimage.zoom(nodes, (_SAMPLES / cells, _LINES / cells), order=1)


def _add_wall(amplitude: np.ndarray, rng: Generator) -> np.ndarray:
    """Lay the abdominal wall, bands along the probe, over the first samples."""
    bands = 0.25 + 0.2 * np.sin(_Z * rng.uniform(60, 120) + rng.uniform(0, 6))
    return _fill(bands, amplitude, _Z - rng.uniform(0.06, 0.12))


def _compress(envelope: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Logarithm of the envelope under automatic gain: [samples, lines] in [0, 1]."""
    decibel = np.log(envelope + 1e-3)
    gain = (decibel - decibel.mean()) / decibel.std()
    return np.clip(scanner.brightness + scanner.contrast * gain, 0, 1) ** scanner.gamma


def scan_convert(frame: np.ndarray, scanner: Scanner, size: int) -> np.ndarray:
    """Bend a frame [samples, lines] in [0, 1] into its fan: [size, size] uint8."""
    top = scanner.probe_radius * np.cos(scanner.half_angle)
    # In units of the image's side: nearly as tall as the image, the lower corners cut off a little
    # where the fan is wide, as on a real screen.
    reach = 0.96 * min(0.56 / np.sin(scanner.half_angle), 1 / (1 - top))
    across = (np.arange(size) + 0.5) / size - 0.5
    along = (across + reach * (1 + top) / 2)[:, None]
    radius = (np.hypot(across, along) / reach - scanner.probe_radius) / (1 - scanner.probe_radius)
    angle = np.arctan2(across, along) / scanner.half_angle
    inside = (np.abs(angle) <= 1) & (radius >= 0) & (radius <= 1)
    samples, lines = frame.shape
    coordinates = [radius[inside] * (samples - 1), (angle[inside] + 1) / 2 * (lines - 1)]
    image = np.zeros((size, size), np.uint8)
    image[inside] = np.rint(255 * scipy.ndimage.map_coordinates(frame, coordinates, order=1))
    return image

"""The time that a step needs at the least, from a chip's published peaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hlo import Collective

HOP = 1e-6
"""Seconds from a chip to its neighbour; an assumption, no vendor publishes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Published figures (cloud.google.com/tpu/docs/v5e, v5p, v6e; NVIDIA's data sheet, SXM)."""

    flops: float
    """Per second, of bfloat16."""
    memory: float
    """Bytes of HBM."""
    bandwidth: float
    """Bytes per second of HBM."""
    links: float
    """Bytes per second between chips, over all links of one."""
    torus: int
    """Axes of the torus that a chip has links for, two each; 0: a switch."""
    wraps_at: int = 0
    """Length from which on an axis is closed to a ring."""
    float32: float = 1.0
    """Speed of float32, relative: a TPU multiplies it in one bfloat16 pass, a GPU in TF32, unless
    jax is asked for more."""


CHIPS = {
    "v5e": Chip(flops=197e12, memory=16e9, bandwidth=819e9, links=1600e9 / 8, torus=2, wraps_at=16),
    "v5p": Chip(flops=459e12, memory=95e9, bandwidth=2765e9, links=4800e9 / 8, torus=3, wraps_at=4),
    "v6e": Chip(
        flops=918e12, memory=32e9, bandwidth=1640e9, links=3584e9 / 8, torus=2, wraps_at=16
    ),
    "h100": Chip(flops=989e12, memory=80e9, bandwidth=3350e9, links=450e9, torus=0, float32=0.5),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """Chips, and how they are wired."""

    chip: Chip
    sides: tuple[int, ...]
    """Chips along each axis."""

    @property
    def link_bandwidth(self) -> float:
        """Bytes per second that a chip of the slice can send, over the links that lead anywhere."""
        if not self.chip.torus:
            return self.chip.links
        used = sum((side > 1) + (side >= self.chip.wraps_at) for side in self.sides)
        return self.chip.links * min(used, 2 * self.chip.torus) / (2 * self.chip.torus)

    @property
    def hops(self) -> int:
        """From a chip to the farthest one."""
        if not self.chip.torus:
            return 1
        return sum(side // 2 if side >= self.chip.wraps_at else side - 1 for side in self.sides)

    def seconds(self, each: Collective) -> tuple[float, float]:
        """Time of one collective: for its bytes, and for its hops."""
        size = each.group
        if size < 2:
            return 0.0, 0.0
        # A ring sends (n - 1) / n of the array; a sum is scattered, then gathered.
        rounds = 2 if each.kind == "all-reduce" else 1
        share = 1.0 if each.kind == "collective-permute" else (size - 1) / size
        return rounds * share * each.bytes / self.link_bandwidth, rounds * self.hops * HOP


def slice_of(name: str) -> Slice:
    """The slice of a topology's name, such as `v5e:2x2`.

    Raises:
      ValueError: naming what is known.
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS or not all(side.isdigit() for side in sides.split("x")):
        raise ValueError(
            f"--topology={name}: give one of {', '.join(CHIPS)} and sides, as v5e:2x2 or h100:8"
        )
    return Slice(chip=CHIPS[kind], sides=tuple(int(side) for side in sides.split("x")))


def roofline(
    where: Slice, flops: Mapping[str, float], moved: float, collectives: Sequence[Collective]
) -> dict[str, float | str]:
    """Least times of a step, each part by itself, and what bounds it.

    Args:
      where: the chips.
      flops: of one chip, by type of the operands.
      moved: bytes read and written in one chip's HBM.
      collectives: between the chips.

    Returns:
      Seconds: of computation, of memory, of the collectives' bytes and of their hops; of the step
      if all of it overlaps (`best_seconds`), and if nothing hides the collectives (`seconds`).
    """
    times = [(*where.seconds(each), each.count) for each in collectives]
    parts = {
        "compute": sum(
            each / where.chip.flops / (where.chip.float32 if kind == "float32" else 1)
            for kind, each in flops.items()
        ),
        "memory": moved / where.chip.bandwidth,
        "link": sum(count * sent for sent, _, count in times),
        "latency": sum(count * waited for _, waited, count in times),
    }
    alone = max(parts["compute"], parts["memory"])
    between = parts["link"] + parts["latency"]
    return {
        **{f"{name}_seconds": value for name, value in parts.items()},
        "best_seconds": max(alone, between),
        "seconds": alone + between,
        "bound_by": max(parts, key=lambda name: parts[name]),
    }

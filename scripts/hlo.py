"""What a compiled program does, read from its HLO text, and what a traced one multiplies."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

SIZES = {"pred": 1, "c64": 8, "c128": 16, "u4": 0.5, "s4": 0.5}
"""Bytes of an element, of those types whose names do not end their bits."""
ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<=]*)\](\{[^}]*\})?")
SCRATCH = re.compile(r"\b[su]8\[\d+\]")
"""What cuBLAS and cuDNN may write to, among the results of a call of theirs."""
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("copy-done", "slice-done", "while", "conditional", "call", "partition-id", "opt-barrier"),
    *(f"{kind}-done" for kind in COLLECTIVES),
}
"""Operations that move nothing, or whose beginning or body does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of HLO text."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    """What follows the opening parenthesis."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """A communication between chips."""

    kind: str
    bytes: float
    """Of the result on one chip; of the operand, for a reduce-scatter."""
    group: int
    """Chips that take part, 0 where the text does not say."""
    count: float = 1.0
    """Times per step, in loops more than once."""


def array_bytes(shape: str, *, hbm_only: bool = False) -> float:
    """Bytes of an HLO shape, an array or a tuple.

    Args:
      shape: such as `(f32[64]{0:T(128)S(1)}, bf16[8,2]{1,0})`.
      hbm_only: leave out what the compiler has put into another memory, S(1) and so on.
    """
    total = 0.0
    for kind, sides, layout in ARRAY.findall(shape):
        if kind == "token" or (hbm_only and "S(" in layout):
            continue
        bits = re.match(r"[a-z]+(\d+)", kind)
        size = SIZES.get(kind) or int(bits[1] if bits else 32) / 8
        total += size * math.prod(int(re.sub(r"\D", "", side)) for side in sides.split(",") if side)
    return total


class Program:
    """A compiled module's text; loops count as often as they run, where that is known."""

    def __init__(self, text: str) -> None:
        """Read it."""
        self._computations: dict[str, list[Instruction]] = {}
        self._entry, current = "", []
        for line in text.splitlines():
            if head := COMPUTATION.match(line):
                current = self._computations.setdefault(head[2], [])
                self._entry = head[2] if head[1] else self._entry
            elif found := INSTRUCTION.match(line):
                name, shape, operation, rest = found.groups()
                operands = tuple(re.findall(r"%([\w.\-]+)", _arguments(rest)))
                current.append(
                    Instruction(
                        name=name, shape=shape, operation=operation, operands=operands, rest=rest
                    )
                )

    @cached_property
    def _shapes(self) -> dict[str, str]:
        return {each.name: each.shape for every in self._computations.values() for each in every}

    def _walk(self, name: str, times: float, fused: bool) -> Iterator[tuple[Instruction, float]]:
        """The instructions that run, each with how often; inside fusions only if asked."""
        for each in self._computations.get(name, []):
            yield each, times
            inner = times
            if each.operation == "while":
                inner *= self._trips(each)
            if each.operation in ("while", "conditional", "call", "async-start") or (
                fused and each.operation == "fusion"
            ):
                called = r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
                names = re.findall(called, each.rest)
                for branches in re.findall(r"branch_computations=\{([^}]*)\}", each.rest):
                    names += re.findall(r"%?([\w.\-]+)", branches)
                for inside in names:
                    yield from self._walk(inside, inner, fused)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs, 1 where the text does not say."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        lines = self._computations.get(condition[1] if condition else "", [])
        # A scan counts from 0 up to the one number that its condition knows.
        limits = [each for each in lines if each.operation == "constant" and "s32[]" in each.shape]
        return int(_arguments(limits[0].rest)) if len(limits) == 1 else 1

    def collectives(self) -> list[Collective]:
        """Every communication of a step."""
        found = []
        for each, times in self._walk(self._entry, 1.0, True):
            kind = each.operation.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            size = array_bytes(each.shape)
            given = sum(array_bytes(self._shapes.get(name, "")) for name in each.operands)
            if kind == "reduce-scatter":
                size = given
            elif each.operation.endswith("-start") and kind != "all-reduce":
                size -= given  # the result is a tuple with the operands
            found.append(
                Collective(kind=kind, bytes=size, group=group_size(each.rest), count=times)
            )
        return found

    def moved_bytes(self) -> tuple[float, dict[str, float]]:
        """Bytes read and written in HBM, in all and by operation.

        What the compiler has placed in the chip's own memory is left out; a slice that is fused
        with more than the like counts as the whole of what it is taken from.
        """
        by_operation: dict[str, float] = defaultdict(float)
        for each, times in self._walk(self._entry, 1.0, False):
            if each.operation in FREE:
                continue
            if each.operation in ("copy-start", "slice-start"):
                # A tuple of source and target, the smaller of which is what moves.
                ends = [found[0] for found in ARRAY.finditer(each.shape)][:2]
                moved = min(map(array_bytes, ends)) * sum("S(" not in end for end in ends)
            else:
                made = each.shape
                if each.operation == "custom-call":
                    made = SCRATCH.sub("", made)
                moved = array_bytes(made, hbm_only=True)
                most = array_bytes(each.shape) if "dynamic-slice" in each.name else math.inf
                for name in dict.fromkeys(each.operands):
                    size = array_bytes(self._shapes.get(name, ""), hbm_only=True)
                    moved += min(size, most)
            by_operation[each.operation] += times * moved
        return sum(by_operation.values()), dict(by_operation)

    def layout_changes(self) -> tuple[float, float]:
        """How many transpositions and copies between layouts a step has, and their bytes."""
        count = size = 0.0
        for each, times in self._walk(self._entry, 1.0, True):
            if each.operation in ("copy", "transpose"):
                count += times
                size += times * 2 * array_bytes(each.shape)
        return count, size


def _arguments(rest: str) -> str:
    """What stands in the parentheses that a text begins inside of."""
    depth = 1
    for i, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return rest[:i]
    return rest


def group_size(attributes: str) -> int:
    """Chips in each group of a collective, 0 where its attributes do not say."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", found[2]))
    return 0


def by_kind(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """Count and bytes of the collectives of each kind."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for each in collectives:
        count[each.kind] += each.count
        size[each.kind] += each.count * each.bytes
    return {kind: {"count": count[kind], "bytes": size[kind]} for kind in sorted(count)}


def matrix_flops(jaxpr: Any) -> dict[str, float]:
    """Operations of all matrix products and convolutions of a traced function, by operand type.

    Counted by hand: two for each multiplication, loops as often as they run, of branches the
    largest; positions of a convolution that see only padding count, zeros of a dilated input do
    not. XLA's own count takes the body of a loop once.

    Args:
      jaxpr: a closed or open jaxpr, of the whole batch.
    """
    total: dict[str, float] = defaultdict(float)
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, given = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            kind = equation.invars[0].aval.dtype.name
            total[kind] += _product_flops(equation)
            continue
        inner = [matrix_flops(each) for each in _inner(given)]
        if name == "cond":
            inner = [max(inner, key=lambda each: sum(each.values()))]
        for each in inner:
            for kind, flops in each.items():
                total[kind] += flops * given.get("length", 1) if name == "scan" else flops
    return dict(total)


def _inner(given: dict[str, Any]) -> Iterator[Any]:
    """The functions that an equation calls."""
    for value in given.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(each, "eqns") or hasattr(each, "jaxpr"):
                yield each


def _product_flops(equation: Any) -> float:
    """Of one matrix product or convolution."""
    a, b = (variable.aval.shape for variable in equation.invars[:2])
    out, given = equation.outvars[0].aval.shape, equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = given["dimension_numbers"]
        return 2.0 * math.prod(out) * math.prod(a[axis] for axis in contracted)
    kernel = given["dimension_numbers"].rhs_spec  # features out, features in, space
    taps = math.prod(b[axis] for axis in kernel[1:])
    # The gradient of a strided convolution is one of an input with zeros in between.
    return 2.0 * math.prod(out) * taps / math.prod(given["lhs_dilation"])

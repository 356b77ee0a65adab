"""Noise schedules: how much of the label is left after each step of the forward process.

A schedule is kept on the host in float64. Every coefficient is computed there and rounded to
float32 once, because `1 - alpha_bar` in float32 loses four digits near t = 0. The exception is
the precision `public`, whose tables are float32, so that all coefficients are rounded as in the
authors' code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = ("linear", "const", "quad", "jsd", "sigmoid", "cosine", "cosine_anneal")


class Schedule(NamedTuple):
    """Tables over the timesteps 0..T-1 (index 0 is t = 1 in the paper), on the host."""

    beta: Float[np.ndarray, " t"]
    """[T] variance added by each step."""
    alpha: Float[np.ndarray, " t"]
    """[T], 1 - beta."""
    alpha_bar: Float[np.ndarray, " t"]
    """[T], the running product of alpha."""

    @property
    def num_train_steps(self) -> int:
        """T, the length of the chain."""
        return len(self.beta)


def _cosine(num_steps: int, offset: float = 0.008) -> np.ndarray:
    """Betas of a squared-cosine alpha_bar, capped at 0.999 (Nichol and Dhariwal 2021)."""
    time = np.arange(num_steps + 1) / num_steps
    alpha_bar = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
    beta: np.ndarray = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return beta


def _betas(kind: str, num_steps: int, start: float, end: float) -> np.ndarray:
    """Beta over the timesteps, [num_steps]."""
    match kind:
        case "linear":
            return np.linspace(start, end, num_steps)
        case "const":
            return np.full(num_steps, end)
        case "quad":
            return np.linspace(start**0.5, end**0.5, num_steps) ** 2
        case "jsd":
            return 1 / np.linspace(num_steps, 1, num_steps)
        case "sigmoid":
            return (end - start) / (1 + np.exp(-np.linspace(-6, 6, num_steps))) + start
        case "cosine":
            return _cosine(num_steps)
        case "cosine_anneal":
            phase = np.pi * np.arange(num_steps) / (num_steps - 1)
            return start + (end - start) * (1 - np.cos(phase)) / 2
    raise ValueError(f"schedule kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")


def make_schedule(
    kind: str = "linear",
    num_steps: int = 1000,
    start: float = 1e-4,
    end: float = 0.02,
    precision: str = "float64",
) -> Schedule:
    """Build a schedule.

    Args:
      kind: one of `KINDS`; the paper uses `linear`.
      num_steps: T, at least 2.
      start: first beta; `const`, `jsd` and `cosine` do not use it.
      end: last beta; `jsd` and `cosine` do not use it.
      precision: `float64`, or `public` to repeat the rounding of the authors' float32 tables,
        which predictions of their checkpoints depend on in the fifth digit.

    Raises:
      ValueError: for an unknown kind or precision, or fewer than 2 steps.
    """
    if num_steps < 2:
        raise ValueError(f"a schedule needs at least 2 steps, not {num_steps}")
    if precision not in ("float64", "public"):
        raise ValueError(f"schedule precision {precision!r} is unknown; choose float64 or public")
    beta = _betas(kind, num_steps, start, end)
    if precision == "float64":
        return Schedule(beta, 1 - beta, np.cumprod(1 - beta))
    beta = beta.astype(np.float32)
    alpha = np.float32(1) - beta
    # The product runs in double and every entry is rounded to float32 on the way out.
    return Schedule(beta, alpha, np.cumprod(alpha, dtype=np.float64).astype(np.float32))

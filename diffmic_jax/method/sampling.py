"""How labels are sampled at prediction: the start, the reverse process and the readout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from diffmic_jax import config
from diffmic_jax.diffusion import priors, samplers
from diffmic_jax.diffusion.link import Link
from diffmic_jax.diffusion.readout import READOUTS
from diffmic_jax.diffusion.schedules import Schedule
from diffmic_jax.errors import InputError
from diffmic_jax.types import Array, Prior

MIRRORS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "none": ((),),
        "horizontal": ((), (2,)),
        "both": ((), (2,), (1,), (1, 2)),
    }
)
"""The axes of images [B, H, W, 3] along which each copy is mirrored; first the image itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How labels are sampled at prediction."""

    initial: Callable[[Prior, Array], Array]
    """(prior, noise [S, B, *L, C]) -> the state to start from."""
    run: Callable[..., Any]
    """(eps_fn, y_init, prior_mean, noise [n, ...]) -> y0_hat; `return_states` as in samplers."""
    timesteps: Integer[np.ndarray, " n"]
    """[n] descending, those that `run` visits; none where the guidance is the whole classifier."""
    num_samples: int
    """S, samples of each image, and of each of its copies."""
    readout: Callable[[Array], Array]
    """Samples [S, B, C] -> probabilities [B, C]."""
    unconditional: float
    """Share of the samples, the first ones, without conditioning."""
    ensemble_weight: float
    """Weight of the guidance prediction in the probabilities."""
    flips: str
    """Which of `MIRRORS`: the copies of an image over which the prediction is averaged."""

    @property
    def num_steps(self) -> int:
        """n, reverse steps."""
        return len(self.timesteps)

    @property
    def total_samples(self) -> int:
        """Samples of an image and of its mirrored copies."""
        return self.num_samples * len(MIRRORS[self.flips])

    @property
    def is_unconditional(self) -> Bool[np.ndarray, " s"]:
        """[S] whether a sample is without conditioning; [1] if none is."""
        count = round(self.unconditional * self.num_samples)
        return np.arange(self.num_samples if count else 1) < count


def make_sampling(own: config.Sampling, schedule: Schedule, link: Link) -> Sampling:
    """The sampler of `config.sampling` over a schedule.

    Raises:
      InputError: the schedule keeps no signal where the sampler starts.
    """
    steps = np.zeros(0, int)
    try:
        if own.num_steps:
            steps = samplers.timesteps(schedule, own.num_steps, own.start)
    except ValueError as error:
        raise InputError(f"config.sampling.start={own.start!r}: {error}") from error
    sampler, options = samplers.SAMPLERS[own.sampler]
    chosen = {name: getattr(own, name) for name in options}
    run: Callable[..., Array | tuple[Array, Array]] = partial(
        sampler, **chosen, average=own.readout == "chain"
    )

    def sample(
        eps_fn: Callable[[Array, Array], Array],
        y_init: Array,
        prior_mean: Array,
        noise: Array,
        return_states: bool = False,
    ) -> Array | tuple[Array, Array]:
        return run(eps_fn, schedule, y_init, prior_mean, steps, noise, return_states=return_states)

    matched = own.start_std == "matched" and len(steps)
    scale = float(np.sqrt(1 - schedule.alpha_bar[steps[0]])) if matched else 1.0
    initial = priors.INITIALS[own.initial]
    return Sampling(
        initial=lambda prior, noise: initial(prior, scale * noise),
        run=sample,
        timesteps=steps,
        num_samples=own.num_samples,
        readout=lambda samples: READOUTS[own.readout](samples, link),
        unconditional=own.unconditional,
        ensemble_weight=own.ensemble_weight,
        flips=own.flips,
    )

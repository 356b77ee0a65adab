"""The training step: a pure function of state, batch and key.

    L_denoiser = mean w (eps - eps_hat)^2 + lambda (MMD(eps, eps_hat_g) + MMD(eps, eps_hat_l))
                                                                                 (v1, Eq. 4 to 6)
    L_guidance = CE((logits_g + logits_l) / 2, label)                          (v1, section 2.3)

with binary cross-entropy in place of CE where images have any number of labels. In v1 the weights w
are 1; v2 has no MMD, a focal w, a map of labels, and trains each branch of the guidance by itself.
Beside the noise, or in its place, the cross-entropy of the denoised label can be the objective.

The guidance prediction that the diffusion uses is computed in evaluation mode and passes no
gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.process import q_sample
from diffmic_jax.method.build import Method
from diffmic_jax.method.state import TrainState, of_network
from diffmic_jax.method.updates import Scalars, gradients, of_what_learns, updated
from diffmic_jax.types import Array, Batch, Guidance, Timestep, Variables


def train_step(
    method: Method, state: TrainState, batch: Batch, key: Array
) -> tuple[TrainState, Scalars]:
    """One step of every network that learns in the method's phase.

    Both losses are taken at the state before the step. A network that does not learn passes through
    untouched, and its loss is not computed.

    Args:
      method: static under `jit`; `method.phase` names the networks that learn.
      state: the state before, which may be donated.
      batch: a full batch, without padding; images as bytes or normalised.
      key: random key of the run; the step number is folded in.

    Returns:
      The state after, and scalars for the log.
    """
    key = jax.random.fold_in(key, state.step)
    batch = batch._replace(image=method.preprocess.normalise(batch.image))
    before, after = state.variables(), state
    parts = method.optimization.accumulate
    scalars: Scalars = {}

    if method.phase.guidance:
        mixed = _mixed(method, batch, jax.random.fold_in(key, 3))
        loss, seen = of_what_learns(method, "guidance", partial(guidance_loss, method), before)
        grads, found, stats = gradients(loss, "guidance_loss", seen, "guidance", mixed, parts)
        after = updated(method, after, "guidance", grads, stats)
        scalars |= found

    if method.phase.denoiser:
        loss = partial(_denoiser_loss, method)
        inputs = (batch, *_timesteps_and_noise(method, len(batch.image), key))
        grads, found, stats = gradients(loss, "loss", before, "denoiser", inputs, parts)
        after = updated(method, after, "denoiser", grads, stats)
        scalars |= found

    return after.replace(step=state.step + 1), scalars


def guidance_loss(
    method: Method,
    variables: Variables,
    batch: Batch,
    target: Float[Array, "b c"] | None = None,
    keys: Array | None = None,
) -> tuple[Scalars, Variables]:
    """Loss of the guidance on a batch, in training mode where all of it learns.

    Args:
      method: what to compute.
      variables: parameters and statistics, keyed by network.
      batch: normalised images, no padding rows.
      target: [B, C] labels of mixed images; those of the batch if there are none.
      keys: [B] random keys for stochastic depth and dropout.

    Returns:
      Scalars, of which `guidance_loss` is the objective, and the guidance's new statistics.
    """
    own = of_network(variables, "guidance")
    train = not method.optimization.tuning.keeps_statistics
    rngs = {} if keys is None else {"drop_path": keys[0], "dropout": jax.random.fold_in(keys[0], 1)}
    guidance, updates = method.guidance.apply(
        own, batch.image, train, mutable=["batch_stats"], rngs=rngs
    )
    target = method.task.targets(batch.label) if target is None else target
    loss = method.objective.guidance_loss(guidance, target)
    if method.phase.class_weights:
        loss *= target @ jnp.asarray(method.phase.class_weights)
    correct = method.task.correct(guidance.fused, target)
    known = ~jnp.isnan(correct)  # of all labels of a batch none may be
    scalars = {
        "guidance_loss": loss.mean(),
        "guidance_accuracy": jnp.where(known, correct, 0).sum() / jnp.maximum(known.sum(), 1),
    }
    return scalars, updates.get("batch_stats", {})


def diffusion_loss(
    method: Method,
    variables: Variables,
    batch: Batch,
    guidance: Guidance,
    t: Timestep,
    eps: Float[Array, "b *l c"],
) -> tuple[Scalars, Variables]:
    """Loss of the denoiser on a batch at given timesteps and noise (v1, Eq. 2 to 6).

    All streams share t, eps and the image embedding, which is computed once, and go through the
    network side by side. The batch statistics of those that go through the main stream's projection
    are recorded, one after the other. The others normalise by their own batch as well, but no
    prediction ever goes their way, and their statistics would only blur the main stream's
    (docs/results/log.md has by how much).

    Args:
      method: what to compute.
      variables: parameters and statistics, keyed by network.
      batch: normalised images and labels, no padding rows.
      guidance: the guidance prediction for the batch.
      t: [B, *L] timesteps.
      eps: [B, *L, C] standard normal noise.

    Returns:
      Scalars (`loss` is the objective; `mse`, `mmd_1`, ... its parts), and the denoiser's new
      statistics.
    """
    objective, weights = method.objective, method.objective.weights
    target = method.task.targets(batch.label)
    known = ~jnp.isnan(target)
    # What is not known of a label is what the guidance holds for likely, and no error counts there.
    believed = jnp.where(known, target, method.task.link.activate(guidance.fused))
    y0 = in_cells(believed, method.cells)
    # Eq. 2: one noisy label for each prior mean; the first is the main stream's.
    priors = method.priors(guidance)
    y_t = [q_sample(method.schedule, y0, t, eps, prior.mean) for prior in priors]
    # Eq. 3: the noise that the denoiser sees in each.
    outputs, stats = _denoiser_streams(method, variables, batch, guidance, (y_t, priors, t))
    main, *others = (
        method.denoised(output, y, t, prior)
        for output, y, prior in zip(outputs, y_t, priors, strict=True)
    )
    # Eq. 4: squared error of the noise.
    weight = objective.image_weight(guidance, target)
    noise = jnp.where(in_cells(known, method.cells), eps, main.eps_hat)
    error = losses.noise_mse(noise, main.eps_hat, objective.timestep_weight(t))
    scalars = {"mse": (weight * error).mean()}
    # Eq. 5 and 6: maximum mean discrepancy of the others' noise.
    scalars["loss"] = weights.noise_weight * scalars["mse"]
    for i, other in enumerate(others, 1):
        scalars[f"mmd_{i}"] = losses.mmd(eps, other.eps_hat)
        scalars["loss"] += weights.mmd_weight * scalars[f"mmd_{i}"]
    # Not in the paper: cross-entropy of the denoised label.
    if weights.label_weight:
        error = main.certainty * objective.label_loss(main.logits, in_cells(target, method.cells))
        scalars["label_loss"] = (weight * error.reshape(len(weight), -1).mean(axis=1)).mean()
        scalars["loss"] += weights.label_weight * scalars["label_loss"]
    return scalars, stats


def in_cells(label: Shaped[Array, "b c"], cells: tuple[int, ...]) -> Shaped[Array, "b *l c"]:
    """The same label in every cell: [B, C] -> [B, *L, C]."""
    batch, classes = label.shape
    spread = label.reshape(batch, *(1 for _ in cells), classes)
    return jnp.broadcast_to(spread, (batch, *cells, classes))


def guide(method: Method, variables: Variables, batch: Batch) -> Guidance:
    """The guidance prediction for a batch of normalised images, in evaluation mode."""
    own = of_network(variables, "guidance")
    return cast(Guidance, method.guidance.apply(own, batch.image, False))


def without_conditioning(guidance: Guidance, where: Bool[Array, "*_"]) -> Guidance:
    """The guidance prediction with logits of 0 where asked: all classes are equally likely.

    Args:
      guidance: logits [B, C].
      where: bool, of a shape that broadcasts with the logits; the result has their joint shape.
    """
    names = ("fused", "global_", "local")
    return guidance._replace(
        **{name: jnp.where(where, 0, getattr(guidance, name)) for name in names}
    )


def _denoiser_streams(
    method: Method, variables: Variables, batch: Batch, guidance: Guidance, inputs: tuple[Any, ...]
) -> tuple[list[Array], Variables]:
    """The denoiser's outputs for all streams in training mode, and its new statistics."""
    own = of_network(variables, "denoiser")
    assert method.denoiser is not None, "the recipe has no denoiser"
    run: Any = partial(method.denoiser.apply, mutable=["batch_stats"])
    encoded = batch.image, guidance.patches, True, guidance.pooled
    features, updates = run(own, *encoded, method="encode")
    own = {"params": own["params"], **updates}
    outputs, updates = run(own, *inputs, features, method="streams")
    return outputs, updates["batch_stats"]


def _mixed(method: Method, batch: Batch, key: Array) -> tuple[Batch, Array | None, Array]:
    """The batch that the guidance learns from, its labels [B, C] if mixed, and keys [B].

    Mixed as a whole, before it is taken in parts; each part has the keys of its own images.
    """
    key_mix, key_depth = jax.random.split(key)
    keys = jax.random.split(key_depth, len(batch.image))
    if not method.objective.mix:
        return batch, None, keys
    image, target = method.objective.mix(batch.image, method.task.targets(batch.label), key_mix)
    return batch._replace(image=image), target, keys


def _timesteps_and_noise(method: Method, batch_size: int, key: Array) -> tuple[Array, ...]:
    """Timesteps [B, *L], noise [B, *L, C], and a uniform number per image [B], of one step."""
    key_t, key_eps = jax.random.split(key)
    shape = (batch_size, *method.cells)
    t = method.timesteps(key_t, shape, method.schedule.num_train_steps)
    eps = jax.random.normal(key_eps, (*shape, method.task.num_classes))
    return t, eps, jax.random.uniform(jax.random.fold_in(key, 2), shape[:1])


def _denoiser_loss(
    method: Method, variables: Variables, batch: Batch, t: Array, eps: Array, uniform: Array
) -> tuple[Scalars, Variables]:
    """`diffusion_loss` without gradient for the guidance, and with conditioning dropout.

    An image whose uniform number [B] is below the dropout's share has no conditioning. On images
    that it was trained on, the guidance is right too often.
    """
    guidance = jax.lax.stop_gradient(guide(method, variables, batch))
    if dropout := method.objective.conditioning_dropout:
        guidance = without_conditioning(guidance, uniform[:, None] < dropout)
    return diffusion_loss(method, variables, batch, guidance, t, eps)

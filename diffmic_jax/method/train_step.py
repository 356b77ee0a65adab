"""The training step and the prediction step: pure functions of state, batch and key.

A training step computes, for the networks that learn in the current phase,

    L_denoiser = mean w (eps - eps_hat)^2 + lambda (MMD(eps, eps_hat_g) + MMD(eps, eps_hat_l))
    L_guidance = CE((logits_g + logits_l) / 2, label)                       (v1, Eqs. 3-5)

with binary cross-entropy in place of CE where images have any number of labels. In v1 the weights w
are 1; v2 has no MMD, a focal w, a map of labels, and trains each branch of the guidance by itself.
Beside the noise, or in its place, the cross-entropy of the denoised label can be the objective.

The guidance that the diffusion sees passes no gradient, and is in evaluation mode unless
`train.share_guidance` lets it see the one that learns in the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffmic_jax.diffusion import losses
from diffmic_jax.diffusion.process import q_sample
from diffmic_jax.method.build import Recipe
from diffmic_jax.method.optimizers import make_optimizers
from diffmic_jax.nn import folded
from diffmic_jax.nn.folded import Folded
from diffmic_jax.nn.preprocess import normalise
from diffmic_jax.training.state import TrainState, of_network
from diffmic_jax.types import Array, Batch, Guidance, Prediction, Variables

Scalars = dict[str, Array]


def targets(recipe: Recipe, label: Array) -> Array:
    """Clean labels y0 [B, C]: one-hot of class indices, multi-hot as it is."""
    if label.ndim == 2:
        return label.astype(jnp.float32)
    return jax.nn.one_hot(label, recipe.num_classes)


def _in_cells(label: Array, cells: tuple[int, ...]) -> Array:
    """The same label in every cell: [B, C] -> [B, *L, C]."""
    batch, classes = label.shape
    spread = label.reshape(batch, *(1 for _ in cells), classes)
    return jnp.broadcast_to(spread, (batch, *cells, classes))


def guide(recipe: Recipe, variables: Variables, batch: Batch) -> Guidance:
    """The guidance's answer for a batch, in evaluation mode."""
    own = of_network(variables, "guidance")
    return cast(Guidance, recipe.guidance.apply(own, batch.image, False))


def _with_logits(guidance: Guidance, change: Callable[[Array], Array]) -> Guidance:
    """The guidance with other guesses; logits of 0 say that all classes are equally likely."""
    names = ("fused", "global_", "local")
    return guidance._replace(**{name: change(getattr(guidance, name)) for name in names})


def _denoiser(recipe: Recipe) -> Callable[..., Any]:
    """The denoiser's `apply`, which returns more than its type says."""
    assert recipe.denoiser is not None, "the recipe diffuses nothing"
    return recipe.denoiser.apply


def embed(recipe: Recipe, variables: Variables, batch: Batch, guidance: Guidance) -> Array:
    """The denoiser's embedding [B, D] of a batch, in evaluation mode."""
    own = of_network(variables, "denoiser")
    seen = batch.image, guidance.patches, False, guidance.features
    return cast(Array, _denoiser(recipe)(own, *seen, method="encode"))


def guidance_loss(
    recipe: Recipe, variables: Variables, batch: Batch
) -> tuple[Scalars, Variables, Guidance]:
    """Loss of the guidance on a batch, in training mode.

    Returns:
      Scalars, of which `guidance_loss` is the objective, the guidance's new statistics, and its
      answer for the batch.
    """
    guidance, updates = recipe.guidance.apply(
        of_network(variables, "guidance"), batch.image, True, mutable=["batch_stats"]
    )
    target = targets(recipe, batch.label)
    if batch.label.ndim == 2:
        hits = (guidance.fused > 0) == (target > 0.5)
    else:
        hits = guidance.fused.argmax(-1) == batch.label
    loss = recipe.guidance_loss(guidance, target)
    if recipe.class_weights:
        loss *= target @ jnp.asarray(recipe.class_weights)
    scalars = {
        "guidance_loss": loss.mean(),
        "guidance_accuracy": hits.mean(),
    }
    return scalars, updates.get("batch_stats", {}), guidance


def diffusion_loss(
    recipe: Recipe, variables: Variables, batch: Batch, guidance: Guidance, t: Array, eps: Array
) -> tuple[Scalars, Variables]:
    """Loss of the denoiser on a batch at given timesteps and noise.

    All streams share t, eps and the image embedding, which is computed once, and go through the
    network side by side. The batch statistics of those that go through the main stream's projection
    are recorded, one after the other. The others normalise by their own batch as well, but no
    prediction ever goes their way, and their statistics would only blur the main stream's
    (docs/results.md has by how much).

    Args:
      recipe: what to compute.
      variables: parameters and statistics, keyed by network.
      batch: images and labels, no padding rows.
      guidance: the guidance's answer for the batch.
      t: [B, *L] timesteps.
      eps: [B, *L, C] standard normal noise.

    Returns:
      Scalars (`loss` is the objective; `mse`, `mmd_1`, ... its parts), and the denoiser's new
      statistics.
    """
    own = of_network(variables, "denoiser")
    run = _denoiser(recipe)
    mutable = ["batch_stats"]
    seen = batch.image, guidance.patches, True, guidance.features
    features, updates = run(own, *seen, method="encode", mutable=mutable)
    target = targets(recipe, batch.label)
    y0 = _in_cells(target, recipe.cells)
    priors = recipe.priors(guidance)
    y_t = [q_sample(recipe.schedule, y0, t, eps, prior.mean) for prior in priors]
    own = {"params": own["params"], **updates}
    outputs, updates = run(own, y_t, priors, t, features, method="streams", mutable=mutable)
    streams = zip(outputs, y_t, priors, strict=True)
    answer, *others = (recipe.denoised(output, y, t, prior) for output, y, prior in streams)
    weight = recipe.loss_weight(guidance, target)
    scalars = {"mse": (weight * losses.noise_mse(eps, answer.eps_hat)).mean()}
    scalars["loss"] = recipe.noise_weight * scalars["mse"]
    for i, other in enumerate(others, 1):
        scalars[f"mmd_{i}"] = losses.mmd(eps, other.eps_hat)
        scalars["loss"] += recipe.mmd_weight * scalars[f"mmd_{i}"]
    if recipe.label_weight:
        error = answer.certainty * recipe.label_loss(answer.logits, y0)
        scalars["label_loss"] = (weight * error.reshape(len(weight), -1).mean(axis=1)).mean()
        scalars["loss"] += recipe.label_weight * scalars["label_loss"]
    return scalars, updates["batch_stats"]


def _draws(recipe: Recipe, batch: Batch, key: Array) -> tuple[Array, Array, Array]:
    """Timesteps [B, *L] and noise [B, *L, C] of a step, and a number in [0, 1) per image, [B]."""
    key_t, key_eps = jax.random.split(key)
    shape = (len(batch.image), *recipe.cells)
    t = recipe.timesteps(key_t, shape, recipe.schedule.num_train_steps)
    eps = jax.random.normal(key_eps, (*shape, recipe.num_classes))
    return t, eps, jax.random.uniform(jax.random.fold_in(key, 2), shape[:1])


def _denoiser_loss(
    recipe: Recipe,
    variables: Variables,
    batch: Batch,
    guidance: Guidance | None,
    t: Array,
    eps: Array,
    luck: Array,
) -> tuple[Scalars, Variables, None]:
    """`diffusion_loss` without gradient for the guidance; None: it answers in evaluation mode.

    By luck [B] of an image its guess is withheld, which says that all classes are equally likely,
    or is that for another image. Of images that it was trained on, the guidance is right too often.
    """
    seen = jax.lax.stop_gradient(guidance or guide(recipe, variables, batch))
    withheld = luck[:, None] < recipe.guidance_dropout
    swapped = luck[:, None] > 1 - recipe.guidance_swap

    def told(logits: Array) -> Array:
        return jnp.where(withheld, 0, jnp.where(swapped, jnp.roll(logits, 1, axis=0), logits))

    if recipe.guidance_dropout or recipe.guidance_swap:
        seen = _with_logits(seen, told)
    return *diffusion_loss(recipe, variables, batch, seen, t, eps), None


def _gradients(
    loss: Callable[..., tuple[Scalars, Variables, Any]],
    objective: str,
    variables: Variables,
    network: str,
    inputs: tuple[Any, ...],
    parts: int,
) -> tuple[Variables, Scalars, Variables, Any]:
    """Gradients of one network's parameters, with the loss's scalars, new statistics and answer.

    Args:
      loss: (variables, *inputs) -> scalars, the network's new statistics, its answer.
      objective: which of the scalars.
      variables: parameters and statistics of both networks.
      network: the one that learns.
      inputs: arrays whose first axis is the batch, as that of the answer is.
      parts: equal parts that the batch is taken in, one after the other. The gradients are the mean
        over the parts, and the statistics those after the last.
    """
    params = variables["params"]

    def gradient(stats: Variables, inputs: Any) -> tuple[Variables, Scalars, Variables, Any]:
        def scalar(own: Variables) -> tuple[Array, tuple[Scalars, Variables, Any]]:
            trial = {
                "params": params | {network: own},
                "batch_stats": variables["batch_stats"] | {network: stats},
            }
            scalars, stats_after, answer = loss(trial, *inputs)
            return scalars[objective], (scalars, stats_after, answer)

        grads, (scalars, stats, answer) = jax.grad(scalar, has_aux=True)(params[network])
        return grads, scalars, stats, answer

    stats = variables["batch_stats"][network]
    if parts == 1:
        grads, scalars, stats, answer = gradient(stats, inputs)
    else:
        # Every part has rows from the whole batch, so that devices which share it share each part.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), inputs)

        def add(carry: Any, part: Any) -> tuple[Any, Any]:
            total, stats = carry
            *new, stats, answer = gradient(stats, part)
            return (jax.tree.map(jnp.add, total, tuple(new)), stats), answer

        shapes = jax.eval_shape(gradient, stats, jax.tree.map(lambda x: x[0], split))[:2]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (total, stats), answer = jax.lax.scan(add, (zeros, stats), split)
        grads, scalars = jax.tree.map(lambda x: x / parts, total)
        answer = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), answer)
    norm = {f"{network}_grad_norm": optax.tree.norm(grads)}
    return grads, scalars | norm, stats, answer


def _average(recipe: Recipe, state: TrainState, network: str, params: Variables) -> Variables:
    """The network's next EMA; its memory grows with the joint steps, up to 0.9999."""
    k = jnp.maximum(state.step - recipe.warmup_steps, 0)
    decay = jnp.minimum(0.9999, (1 + k) / (10 + k))
    return jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.ema_params[network], params
    )


def train_step(
    recipe: Recipe, state: TrainState, batch: Batch, key: Array
) -> tuple[TrainState, Scalars]:
    """One step of every network that learns in the recipe's phase.

    What does not learn passes through untouched, and its loss is not computed. Both losses are
    taken at the state before the step.

    Args:
      recipe: static under `jit`; `recipe.learns` names the phase's networks.
      state: the state before, which may be donated.
      batch: a full batch, without padding; images as bytes or normalised.
      key: random key of the run; the step number is folded in.

    Returns:
      The state after, and scalars for the log.
    """
    key = jax.random.fold_in(key, state.step)
    batch = batch._replace(image=normalise(batch.image))
    variables = state.variables()
    loss: dict[str, Callable[..., tuple[Scalars, Variables, Any]]] = {
        "guidance": guidance_loss,
        "denoiser": _denoiser_loss,
    }
    draws = _draws(recipe, batch, key)
    inputs: dict[str, tuple] = {"guidance": (batch,), "denoiser": (batch, None, *draws)}
    objective = {"guidance": "guidance_loss", "denoiser": "loss"}
    parts = recipe.optimization.accumulate
    optimizers = make_optimizers(recipe)
    scalars: Scalars = {}
    after = {name: dict(getattr(state, name)) for name in ("params", "batch_stats", "opt_state")}
    average = dict(state.ema_params)
    for network in recipe.learns:
        grads, found, stats, answer = _gradients(
            partial(loss[network], recipe),
            objective[network],
            variables,
            network,
            inputs[network],
            parts,
        )
        if recipe.share_guidance and network == "guidance":  # which learns before the denoiser
            inputs["denoiser"] = (batch, answer, *draws)
        updates, opt_state = optimizers[network].update(
            grads, state.opt_state[network], state.params[network]
        )
        params = optax.apply_updates(state.params[network], updates)
        after["params"][network] = params
        after["batch_stats"][network] = stats
        after["opt_state"][network] = opt_state
        if average:
            average[network] = _average(recipe, state, network, params)
        scalars |= found
    return state.replace(step=state.step + 1, ema_params=average, **after), scalars


def _noise(recipe: Recipe, batch: Batch, key: Array) -> Array:
    """Standard normal draws [num_steps, S, B, *L, C], the start first.

    Every (image, draw) has a key of its own, made from the image's position in its split: neither
    the batching nor the number of draws changes a draw.
    """
    index = jnp.arange(len(batch.image)) if batch.index is None else batch.index
    shape = (recipe.sampling.num_steps, *recipe.cells, recipe.num_classes)

    def draw(index: Array, sample: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, index), sample)
        return jax.random.normal(own, shape)

    samples = jnp.arange(recipe.sampling.num_samples)
    noise = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))(index, samples)
    return jnp.moveaxis(noise, 2, 0)


def fold(recipe: Recipe, variables: Variables) -> Folded | None:
    """The denoiser as `predict_step` runs it: worth keeping where many batches are predicted.

    None if the recipe has no denoiser.
    """
    if recipe.denoiser is None:
        return None
    own = of_network(variables, "denoiser")
    return folded.fold(recipe.denoiser, own, recipe.sampling.timesteps)


def predict_step(
    recipe: Recipe, variables: Variables, batch: Batch, key: Array, ready: Folded | None = None
) -> Prediction:
    """Classify a batch: guidance and image embedding once, then all draws side by side.

    Without a denoiser the one draw is the prior mean, which is what no reverse step leaves.

    Args:
      recipe: static under `jit`.
      variables: parameters and statistics, keyed by network.
      batch: images; labels are not looked at, padding rows get an answer too.
      key: random key of the draws.
      ready: what `fold` makes of the recipe and the variables; None makes it here.
    """
    batch = batch._replace(image=normalise(batch.image))
    guidance = guide(recipe, variables, batch)
    ready = fold(recipe, variables) if ready is None else ready
    if ready is None:
        y0_hat = recipe.priors(guidance)[0].mean[None]
    else:
        y0_hat = _denoise(recipe, variables, batch, key, guidance, ready)
    weight = recipe.sampling.guess_weight
    guess = recipe.link.activate(guidance.fused)
    probabilities = (1 - weight) * recipe.sampling.readout(y0_hat) + weight * guess
    return Prediction(probabilities, y0_hat.std(axis=0), y0_hat, guidance)


def _denoise(
    recipe: Recipe,
    variables: Variables,
    batch: Batch,
    key: Array,
    guidance: Guidance,
    ready: Folded,
) -> Array:
    """Draws [S, B, C] of a batch, arguments as in `predict_step`."""
    features = embed(recipe, variables, batch, guidance)
    told = recipe.sampling.told[:, None, None]
    prior = recipe.priors(_with_logits(guidance, lambda logits: jnp.where(told, logits, 0)))[0]
    respond = folded.on_images(ready, prior.condition, features)
    row_of = np.zeros(recipe.schedule.num_train_steps, np.int32)
    row_of[recipe.sampling.timesteps] = np.arange(recipe.sampling.num_steps)

    def eps_fn(y_t: Array, t: Array) -> Array:
        return recipe.denoised(respond(y_t, jnp.asarray(row_of)[t]), y_t, t, prior).eps_hat

    noise = _noise(recipe, batch, key)
    if recipe.sampling.antithetic:
        noise = noise.at[:, 1::2].set(-noise[:, : noise.shape[1] // 2 * 2 : 2])
    y_init = recipe.sampling.initial(prior, noise[0])
    # The last row of a sampler's noise is unused: the start takes its place.
    y0_hat = recipe.sampling.run(eps_fn, y_init, prior.mean, jnp.roll(noise, -1, axis=0))
    # The score of a class is its mean over the cells.
    return y0_hat.mean(axis=tuple(range(2, y0_hat.ndim - 1)))

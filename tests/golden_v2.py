"""The v2 networks of the golden vectors: their weights, by the names of the reference."""

from __future__ import annotations

import zlib
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffmic_jax.interop.names import denoiser_map, guidance_map
from diffmic_jax.nn import names, trunks
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Array, Prior, Variables
from tests import golden_weights

CLASSES, REGIONS, WIDTH = 4, 6, 64


class StoredTokens(nn.Module):
    """In place of the image encoder: the tokens that the reference was given."""

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """[B, H, W, 3] -> [B, 14, 14, 384]."""
        rng = np.random.default_rng(zlib.crc32(b"sam_feature"))
        tokens = rng.standard_normal((4, 384, 14, 14)).astype(np.float32) * np.float32(0.5)
        return jnp.asarray(tokens.transpose(0, 2, 3, 1), image.dtype)


def denoiser() -> Denoiser:
    return Denoiser(
        num_classes=CLASSES,
        encoder=StoredTokens(),
        feature_dim=WIDTH,
        local_encoder=trunks.build("resnet18"),
        num_regions=REGIONS,
    )


def guidance() -> DCG:
    return DCG(
        num_classes=CLASSES,
        global_trunk=trunks.build("resnet18"),
        local_trunk=trunks.build("resnet18"),
        num_regions=REGIONS,
        crop_channels="first",
    )


def denoiser_variables() -> Variables:
    cells = jnp.zeros((4, REGIONS, REGIONS, CLASSES))
    patches, image = jnp.zeros((4, REGIONS, 32, 32, 3)), jnp.zeros((4, 224, 224, 3))
    prior = Prior(cells, cells, 0)
    shapes = jax.eval_shape(
        lambda key: denoiser().init(key, image, patches, (prior,), method="initialize"),
        jax.random.key(0),
    )
    state = golden_weights.state_dict("shapes_v2_denoiser_c4_d64")
    return names.to_variables(state, shapes, denoiser_map(denoiser()), what="golden")


def guidance_variables() -> Variables:
    init = partial(guidance().init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((4, 224, 224, 3)))
    state = golden_weights.state_dict("shapes_v2_dcg_c4_resnet18")
    return names.to_variables(state, shapes, guidance_map(guidance()), what="golden")

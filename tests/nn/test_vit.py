"""The ViT of EfficientSAM: sizes, the tokens and the bicubic positions of PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import names, trunks
from diffmic_jax.nn.positions import bicubic
from diffmic_jax.nn.vit import ViT
from diffmic_jax.types import Array
from tests import tiny_trunks
from tests.helpers import check

NATIVE, OTHER = (224, 224), (96, 272)
STORED = {
    NATIVE: [
        [-5.2783104, 0.7430149, 7.4881074, 2.6744576],
        [-5.4115527, 0.6751945, 7.5909782, 2.6028795],
        [-5.4259218, 0.6820195, 7.6758023, 2.4329278],
    ],
    OTHER: [
        [-5.4814611, 0.2848393, 7.6106507, 2.1739198],
        [-5.4854349, 0.6207764, 7.7625741, 2.1945010],
        [-5.4974719, 0.8752112, 7.7503010, 2.1163248],
    ],
}
"""A few of `torchs_tokens`, by torch 2.13, for where there is none: the second image's in row 5 and
columns 0, 7 and the last, their first four features."""


def encoder_state() -> dict[str, np.ndarray]:
    state = tiny_trunks.efficientsam_state()
    begin = "image_encoder."
    return {name.removeprefix(begin): x for name, x in state.items() if name.startswith(begin)}


def image_of(height: int, width: int) -> np.ndarray:
    shape = (2, height, width, 3)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def tokens_of(image: np.ndarray, dtype: Any = jnp.float32) -> Array:
    """Tokens of an image by the tiny encoder."""
    trunk: Any = trunks.build("tiny_vit", dtype=dtype)
    init = partial(trunk.init, train=False)
    shapes: Any = jax.eval_shape(init, jax.random.key(0), image)
    variables = names.to_variables(encoder_state(), shapes, trunk.torch_names(), what="file")
    return jax.jit(partial(trunk.apply, train=True))(variables, image)


def torchs_tokens(image: np.ndarray, heads: int = 2, depth: int = 2) -> np.ndarray:
    """The same by PyTorch: [B, H, W, 3] -> [B, h, w, D]."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    w = {name: torch.from_numpy(value).double() for name, value in encoder_state().items()}

    def linear(x, name):
        return f.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return f.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    x = torch.from_numpy(image).double().permute(0, 3, 1, 2)
    x = f.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16)
    size = x.shape[2:]
    table = w["pos_embed"][0, 1:].T.unflatten(1, (14, 14))[None]
    x = x + f.interpolate(table, size=tuple(size), mode="bicubic", align_corners=False)
    x = x.flatten(2).transpose(1, 2)
    for block in (f"blocks.{i}" for i in range(depth)):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv)
        seen = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(seen, f"{block}.attn.proj")
        hidden = f.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return x.unflatten(1, tuple(size)).numpy()


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    # timm's vit_tiny and vit_small of 224 px without head, class token and final norm.
    [("efficientsam_ti", 192, 5_523_840), ("efficientsam_s", 384, 21_664_512)],
)
def test_the_sizes_of_the_published_encoders(name, features, parameters):
    trunk: Any = trunks.build(name, dtype=jnp.bfloat16)
    image = jnp.zeros((2, 112, 160, 3))
    tokens, variables = jax.eval_shape(
        lambda key: trunk.init_with_output(key, image, False), jax.random.key(0)
    )
    assert tokens.shape == (2, 7, 10, trunk.num_features) == (2, 7, 10, features)
    leaves = jax.tree.leaves(variables)
    assert sum(leaf.size for leaf in leaves) == parameters
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("size", [NATIVE, OTHER], ids=["native", "interpolated"])
def test_the_tokens_are_those_of_pytorch(size):
    image = image_of(*size)
    check("tokens", tokens_of(image), torchs_tokens(image), 1e-5)


@pytest.mark.parametrize("size", [NATIVE, OTHER], ids=["native", "interpolated"])
def test_the_tokens_are_those_that_pytorch_gave(size):
    tokens = tokens_of(image_of(*size))
    check("tokens", tokens[1, 5, (0, 7, -1), :4], np.array(STORED[size]), 1e-5)


def test_tokens_in_bfloat16():
    image = image_of(64, 64)
    tokens = tokens_of(image, jnp.bfloat16)
    assert tokens.dtype == jnp.bfloat16
    reference = np.asarray(tokens_of(image), np.float64)
    error = np.asarray(tokens, np.float64) - reference
    assert np.sqrt(np.mean(error**2)) < 0.01 * reference.std()


def test_the_weights_of_a_resampled_axis():
    np.testing.assert_array_equal(bicubic(14, 14), np.eye(14))
    for new_size in (1, 3, 10, 64):
        np.testing.assert_allclose(bicubic(14, new_size).sum(1), 1, atol=1e-14)
    # By hand, from the cubic at distances of 1/4, 3/4, ... and 1/2, 3/2; the cells beyond the
    # border repeat the first.
    double, half = 256 * bicubic(14, 28), 32 * bicubic(14, 7)
    np.testing.assert_array_equal(double[0, :3], [256 + 27, -27, 0])
    np.testing.assert_array_equal(double[1, :4], [225 - 27, 67, -9, 0])
    np.testing.assert_array_equal(double[9, 2:8], [0, -27, 225, 67, -9, 0])
    np.testing.assert_array_equal(half[3, 4:10], [0, -3, 19, 19, -3, 0])
    # By torch 2.13.
    tenth = bicubic(14, 10)
    np.testing.assert_allclose(tenth[0, :4], [0.824, 0.2, -0.024, 0], atol=1e-14)
    np.testing.assert_allclose(tenth[4, 3:9], [0, -0.024, 0.2, 0.92, -0.096, 0], atol=1e-14)


def test_an_image_of_incomplete_patches_is_refused():
    with pytest.raises(ValueError, match="image of 64x100 px: .* multiples of 16"):
        tokens_of(image_of(64, 100))


def test_unknown_names():
    with pytest.raises(InputError, match="'efficientsam' is unknown; .* efficientsam_ti"):
        trunks.build("efficientsam")


def test_the_mean_of_a_classifiers_features_is_its_class_token():
    """And every pixel of the image is seen by it."""
    net = ViT(depth=1, num_features=8, num_heads=2, class_token=True)
    image = np.random.default_rng(0).standard_normal((1, 32, 48, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), image, False)
    features, kept = net.apply(
        variables, image, False, capture_intermediates=lambda m, _: m.name == "norm"
    )
    (tokens,) = kept["intermediates"]["norm"]["__call__"]
    np.testing.assert_allclose(features.mean((1, 2)), tokens[:, 0], atol=1e-6)
    gradient = jax.grad(lambda x: net.apply(variables, x, False).mean((1, 2))[0, 0])(image)
    assert (np.abs(gradient) > 0).any(axis=-1).all()

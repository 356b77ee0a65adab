"""The smallest trunks, by name in the registry, and weights for one of them."""

from __future__ import annotations

import numpy as np

from diffmic_jax.nn import resnet, trunks, vit

NAMES = ("tiny", "tiny_two", "tiny_vit")
# One block, of the second stage: a test's time is that of tracing and compiling.
trunks.register("tiny", resnet.entry(stage_sizes=(0, 1)))
trunks.register("tiny_two", resnet.entry(stage_sizes=(1, 1)))
trunks.register("tiny_vit", vit.entry(depth=2, num_features=16, num_heads=2))


def efficientsam_state(depth: int = 2, width: int = 16) -> dict[str, np.ndarray]:
    """A checkpoint of EfficientSAM by its names there, as far as the tests look at it."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, 197, width),
        "neck.0.weight": (8, width, 1, 1),
    }
    for block in (f"blocks.{i}" for i in range(depth)):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        for layer, inner, outer in (
            ("attn.qkv", 1, 3),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 1, 4),
            ("mlp.fc2", 4, 1),
        ):
            shapes[f"{block}.{layer}.weight"] = (outer * width, inner * width)
            shapes[f"{block}.{layer}.bias"] = (outer * width,)
    rng = np.random.default_rng(0)
    state = {
        f"image_encoder.{name}": rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        for name, shape in shapes.items()
    }
    # Tokens begin as small as the positions, so that the epsilon of the norms counts.
    for leaf in ("weight", "bias"):
        state[f"image_encoder.patch_embed.proj.{leaf}"] *= 0.02
    state["mask_decoder.bias"] = np.zeros(3)
    return {name: value.astype(np.float32) for name, value in state.items()}

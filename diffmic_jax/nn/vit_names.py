"""Names of vision transformers in files: of timm, EfficientSAM, DINOv2 and DINOv3.

The names here are timm's for a ViT. timm's DINOv3 and the original files of DINOv2 and DINOv3 call
some tensors otherwise, or keep them otherwise; `standard` turns them into these.
"""

from __future__ import annotations

import math

import numpy as np

from diffmic_jax.nn.names import ATTENTION, Modules, block, renamed
from diffmic_jax.nn.state_dict import StateDict

LAYERS = ATTENTION | {"ls1": "ls1", "ls2": "ls2", "fc1_g": "mlp.fc1_g", "fc1_x": "mlp.fc1_x"}
"""Layers of a block: ours -> theirs."""
LEFT_OUT = r"head\..*|mask_token|rope_embed\.periods|.*\.bias_mask"
"""Tensors of files that have no variable of ours."""
RENAMED = (
    (r"(?:register|storage)_tokens", "reg_token"),
    (r"(.*)\.gamma_([12])", r"\1.ls\2.gamma"),
    (r"(.*)\.mlp\.w1\.(.*)", r"\1.mlp.fc1_g.\2"),
    (r"(.*)\.mlp\.w2\.(.*)", r"\1.mlp.fc1_x.\2"),
    (r"(.*)\.mlp\.w3\.(.*)", r"\1.mlp.fc2.\2"),
)
"""Other names -> these."""
BIASES = (".q_bias", ".v_bias")
"""Ends of names."""


def modules(depth: int) -> Modules:
    """The modules of a network of `depth` blocks."""
    names = {"": "", "patch_embed": "patch_embed.proj", "norm": "norm"}
    for i in range(depth):
        ours, theirs = f"blocks_{i}", f"blocks.{i}"
        names |= block(ours, theirs, LAYERS) | {ours: f"{theirs}.attn"}
    return names


def standard(state: StateDict, *, biases: str, class_row: bool) -> StateDict:
    """A file by the names here.

    Args:
      state: the tensors by name.
      biases: of the network, as in `Style`.
      class_row: whether its table of positions has a row for the class token.
    """
    state = {renamed(name, RENAMED): value for name, value in state.items()}
    if biases != "qkv":
        state = _with_apart_biases(state)
    if not biases:
        # The published DINOv3 S and B have nothing but zeros there, so that timm has networks
        # without them. Others stay, and are refused by name.
        state = {name: x for name, x in state.items() if name[-7:] not in BIASES or x.any()}
    return state if class_row else _with_class_position(state)


def _with_apart_biases(state: StateDict) -> StateDict:
    """The biases of queries and values each by itself; DINOv3 masks those of the keys."""
    found = dict(state)
    for name, value in state.items():
        mask = state.get(f"{name}_mask", np.ones_like(value))
        if name.endswith(".qkv.bias") and mask.shape == value.shape and value.size % 3 == 0:
            q, k, v = np.split(np.where(mask == 0, 0, value), 3)
            if not k.any():
                attention = name.removesuffix(".qkv.bias")
                found |= dict(zip((attention + end for end in BIASES), (q, v), strict=True))
                del found[name]
    return found


def _with_class_position(state: StateDict) -> StateDict:
    """The class token's position, which the authors' file has in the table, goes into the token."""
    token, table = (state.get(name, np.zeros(0)) for name in ("cls_token", "pos_embed"))
    rows = table.shape[1] if table.ndim == 3 else 0
    if math.isqrt(rows) ** 2 == rows or token.shape != table[:, :1].shape:
        return state
    return state | {"cls_token": token + table[:, :1], "pos_embed": table[:, 1:]}

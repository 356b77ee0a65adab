"""The networks of the golden vectors: their weights by rule, as trees of ours.

The golden vectors were made with networks whose every state_dict entry is a pure function of its
name and shape. Here those entries are made again and put where our networks keep them. What is
compared is looked up by the same rules, so a test can speak of `encoder_x.f.0.weight` and get our
array in torch's layout.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from diffmic_jax.nn import trunks
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Guidance, Variables

GOLDEN = Path(__file__).parent / "golden"

# Where each part of the reference networks lives in ours; the longest match counts.
PLACES = {
    # the denoiser
    "encoder_x.f": "encoder",
    "encoder_x.g": "embed/linear",
    "norm": "embed_norm",
    "lin1.lin": "projections_0/linear",
    "lin2.lin": "hidden_0/linear",
    "lin3.lin": "hidden_1/linear",
    "lin1.embed": "gates_0",
    "lin2.embed": "gates_1",
    "lin3.embed": "gates_2",
    "unetnorm1": "norms_0",
    "unetnorm2": "norms_1",
    "unetnorm3": "norms_2",
    "lin4": "output/linear",
    # the guidance
    "ds_net.f": "global_trunk",
    "dn_resnet.f": "local_trunk",
    "left_postprocess_net.gn_conv_last": "saliency/linear",
    "mil_attn_V": "attention/V/linear",
    "mil_attn_U": "attention/U/linear",
    "mil_attn_w": "attention/w/linear",
    "classifier_linear": "classifier/linear",
}
# Names within a ResNet, and of the leaves.
WITHIN = (
    (r"^0$", "conv1"),
    (r"^1$", "bn1"),
    (r"^([4-7])\.(\d)\.", lambda m: f"layer{int(m[1]) - 3}_{m[2]}/"),
    (r"downsample\.0", "downsample_conv"),
    (r"downsample\.1", "downsample_bn"),
)
LEAVES = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


def draw(name: str, shape: list[int]) -> np.ndarray:
    """The recipe's value of one state_dict entry, float32."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("embed.weight"):
        value = rng.uniform(0, 1, shape)
    elif name == "cond_weight":
        value = rng.standard_normal(shape)
    elif name.endswith("weight") and len(shape) == 1:
        value = rng.uniform(0.4, 0.9, shape)
    elif len(shape) == 1:
        value = 0.05 * rng.standard_normal(shape)
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape)
    return value.astype(np.float32)


def place(name: str, ndim: int) -> tuple[str, list[str]]:
    """Collection and path of a state_dict entry in our variables."""
    module, leaf = name.rsplit(".", 1)
    part = max((p for p in PLACES if module == p or module.startswith(p + ".")), key=len)
    rest = module[len(part) + 1 :]
    for pattern, ours in WITHIN:
        rest = re.sub(pattern, ours, rest)
    kind = "batch_stats" if leaf.startswith("running") else "params"
    if leaf == "weight":
        leaf = "embedding" if "embed" in part else "scale" if ndim == 1 else "kernel"
    else:
        leaf = LEAVES[leaf]
    return kind, [*PLACES[part].split("/"), *filter(None, rest.split("/")), leaf]


def to_ours(value: np.ndarray, path: list[str]) -> np.ndarray:
    """Torch's layout to ours: (out, in, kh, kw) to (kh, kw, in, out), (out, in) to (in, out)."""
    if path[-1] != "kernel":
        return value
    if path[0] == "saliency":
        return value[:, :, 0, 0].T
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def to_torch(value: Any, path: list[str]) -> np.ndarray:
    """The inverse of `to_ours`."""
    value = np.asarray(value)
    if path[-1] != "kernel":
        return value
    if path[0] == "saliency":
        return value.T[:, :, None, None]
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def state_dict(shapes: str) -> dict[str, np.ndarray]:
    """The network whose shapes `tests/golden/{shapes}.json` lists, as torch keeps it."""
    entries = json.loads((GOLDEN / f"{shapes}.json").read_text())
    return {
        name: np.array(0, np.int64) if name.endswith("tracked") else draw(name, shape)
        for name, shape in entries.items()
    }


def load_variables(shapes: str, dtype: Any = np.float32) -> Variables:
    """All variables of the network whose shapes `tests/golden/{shapes}.json` lists."""
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, shape in json.loads((GOLDEN / f"{shapes}.json").read_text()).items():
        if name.endswith("num_batches_tracked"):
            continue
        kind, path = place(name, len(shape))
        node = variables[kind]
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = to_ours(draw(name, shape), path).astype(dtype)
    return variables


def lookup(variables: Variables, name: str, ndim: int) -> np.ndarray:
    """Our value of the state_dict entry `name`, in torch's layout.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`, or as many of them as are needed.
      name: torch's name.
      ndim: its number of axes, which distinguishes a BatchNorm's weight from a kernel.
    """
    kind, path = place(name, ndim)
    value = variables[kind]
    for key in path:
        value = value[key]
    return to_torch(value, path)


def golden_denoiser(dtype: Any = np.float32, momentum: float = 0.9) -> Denoiser:
    """The denoiser of the golden vectors."""
    return Denoiser(
        num_classes=5,
        encoder=trunks.build("resnet18", momentum=momentum, dtype=dtype),
        feature_dim=128,
        encoder_momentum=momentum,
        dtype=dtype,
    )


def golden_dcg(dtype: Any = np.float32) -> DCG:
    """The guidance network of the golden vectors."""
    trunk = trunks.build("resnet50", dtype=dtype)
    return DCG(
        num_classes=5,
        global_trunk=trunk,
        local_trunk=trunk.clone(),
        crop_channels="first",
        dtype=dtype,
    )


def denoiser_variables(dtype: Any = np.float32) -> Variables:
    """Its weights."""
    return load_variables("shapes_denoiser_c5_d128", dtype)


def dcg_variables(dtype: Any = np.float32) -> Variables:
    """The guidance network's weights."""
    return load_variables("shapes_dcg_c5_resnet50", dtype)


def stored_guidance(dcg: dict[str, np.ndarray], dtype: Any = np.float32) -> Guidance:
    """The reference's guidance for the golden images, as far as the diffusion looks at it."""
    fused, global_, local = (
        dcg[name].astype(dtype) for name in ("y_fusion", "y_global", "y_local")
    )
    nothing, patches = np.zeros(0), np.zeros((len(fused), 0, 32, 32, 3), dtype)
    return Guidance(fused, global_, local, nothing, nothing, patches, nothing)

"""Which tensor of a PyTorch state dict is which variable of ours.

A map is explicit: from the path of every module of ours to the name of the module there. What a
state dict has and we have not (counters of BatchNorm, a classifier head that is left out) is listed
as well; anything else is an error. Layouts follow from the kind of a leaf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffmic_jax.errors import InputError
from diffmic_jax.nn.baselines.pvt import PVT
from diffmic_jax.nn.baselines.swin import Swin
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.nn.state_dict import StateDict
from diffmic_jax.nn.vit import ViT
from diffmic_jax.types import Variables

Modules = dict[str, str]
"""Path of a module of ours -> name of the module there."""

LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "pos_embed": "pos_embed",
    "cls_token": "cls_token",
    "relative_position_bias": "relative_position_bias_table",
    "mixing": "cond_weight",
}
COUNTER = "num_batches_tracked"
"""What BatchNorm there keeps and ours does not."""


class Map(NamedTuple):
    """How a network of ours is called there."""

    modules: Modules
    convolutions: tuple[str, ...] = ()
    """Modules there that are 1x1 convolutions, where ours are dense layers."""
    swapped: tuple[str, ...] = ()
    """Modules there whose input has its second half first."""
    left_out: str = r"(?!)"
    """Pattern of further names there that have no place in ours."""


def resnet_modules(trunk: ResNet, ours: str, theirs: str, *, numbered: bool = False) -> Modules:
    """A trunk's modules, by torchvision's and timm's names.

    Args:
      trunk: the network.
      ours: path of the trunk in our network.
      theirs: the prefix of its names there, with its dot.
      numbered: the children sit in a `Sequential`: 0 is conv1, 1 is bn1, 4 to 7 are the layers.
    """
    first, norm = ("0", "1") if numbered else ("conv1", "bn1")
    modules = {f"{ours}/conv1": f"{theirs}{first}", f"{ours}/bn1": f"{theirs}{norm}"}
    for stage, size in enumerate(trunk.stage_sizes, 1):
        layer = str(stage + 3) if numbered else f"layer{stage}"
        for block in range(size):
            mine, other = f"{ours}/layer{stage}_{block}", f"{theirs}{layer}.{block}"
            for i in range(1, 4 if trunk.bottleneck else 3):
                modules |= {f"{mine}/{kind}{i}": f"{other}.{kind}{i}" for kind in ("conv", "bn")}
            # Only where the shape changes; the others have none, here as there.
            modules[f"{mine}/downsample_conv"] = f"{other}.downsample.0"
            modules[f"{mine}/downsample_bn"] = f"{other}.downsample.1"
    return modules


def _trunk_modules(trunk: nn.Module, ours: str, theirs: str) -> Modules:
    """A trunk inside the authors' networks: a numbered ResNet, a ViT, or one without parameters."""
    if isinstance(trunk, ResNet):
        return resnet_modules(trunk, ours, theirs, numbered=True)
    if not isinstance(trunk, ViT):
        return {}
    modules = {
        f"{ours}/{path}".removesuffix("/"): f"{theirs}{name}".removesuffix(".")
        for path, name in vit_map(trunk).modules.items()
    }
    return modules


def guidance_map(net: DCG) -> Map:
    """The guidance network (DCG) of the authors' code; v2's has a layer that it never uses."""
    modules = _trunk_modules(net.global_trunk, "global_trunk", "ds_net.f.")
    modules |= _trunk_modules(net.local_trunk, "local_trunk", "dn_resnet.f.")
    modules |= {
        "saliency/linear": "left_postprocess_net.gn_conv_last",
        "attention/V/linear": "mil_attn_V",
        "attention/U/linear": "mil_attn_U",
        "attention/w/linear": "mil_attn_w",
        "classifier/linear": "classifier_linear",
    }
    convolutions = ("left_postprocess_net.gn_conv_last",)
    return Map(modules, convolutions, left_out=r"fusion_dnn\.weight")


def denoiser_map(net: Denoiser, encoder: str = "encoder_x.f.") -> Map:
    """The denoiser of the authors' code; with a local encoder that of v2.

    Args:
      net: the network.
      encoder: the prefix of the image encoder's names there, with its dot.
    """
    modules = _trunk_modules(net.encoder, "encoder", encoder)
    modules |= {
        "embed/linear": "encoder_x.g",
        "embed_norm": "norm",
        "projections_0/linear": "lin1.lin",
        "hidden_0/linear": "lin2.lin",
        "hidden_1/linear": "lin3.lin",
        "output/linear": "lin4",
    }
    for i in range(3):
        modules |= {f"gates_{i}": f"lin{i + 1}.embed", f"norms_{i}": f"unetnorm{i + 1}"}
    if net.local_encoder is None:
        return Map(modules)
    modules |= _trunk_modules(net.local_encoder, "local_encoder", "encoder_x_l.f.")
    modules |= {"": "", "local_embed/linear": "encoder_x_l.g", "local_norm": "norm_l"}
    convolutions = ("encoder_x.g", "lin1.lin", "lin2.lin", "lin3.lin", "lin4")
    # It puts the condition before the noisy label.
    return Map(modules, convolutions, ("lin1.lin",), re.escape(encoder) + r"neck\..*")


def backbone_map(trunk: nn.Module) -> Map:
    """A classifier of timm (a ResNet: or of torchvision) without its head, or EfficientSAM's.

    Raises:
      TypeError: for a trunk that no published weights are known of.
    """
    match trunk:
        case ResNet():
            modules = resnet_modules(trunk, "trunk", "")
            modules = {ours.removeprefix("trunk/"): name for ours, name in modules.items()}
            return Map(modules, left_out=r"fc\..*")
        case ViT():
            return vit_map(trunk)
        case Swin():
            return _swin_map(trunk)
        case PVT():
            return _pvt_map(trunk)
    raise TypeError(f"no weights are known of a {type(trunk).__name__}")


MLP = {"norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
ATTENTION = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj"} | MLP
REDUCED = {
    "norm1": "norm1",
    "q": "attn.q",
    "kv": "attn.kv",
    "reduce": "attn.sr",
    "reduce_norm": "attn.norm",
    "proj": "attn.proj",
    "depthwise": "mlp.dwconv",
} | MLP
"""Layers of a transformer block: ours -> theirs."""


def _block(ours: str, theirs: str, layers: Mapping[str, str] = ATTENTION) -> Modules:
    return {f"{ours}/{layer}": f"{theirs}.{name}" for layer, name in layers.items()}


def vit_map(trunk: ViT) -> Map:
    """A ViT of timm, or the image encoder of EfficientSAM below `image_encoder.` without neck."""
    modules = {"": "", "patch_embed": "patch_embed.proj", "norm": "norm"}
    for block in range(trunk.depth):
        modules |= _block(f"blocks_{block}", f"blocks.{block}")
    return Map(modules, left_out=r"head\..*" if trunk.class_token else r"neck\..*")


def _swin_map(trunk: Swin) -> Map:
    """A Swin transformer of timm; tables that follow from the sizes are left out."""
    modules = {"patches": "patch_embed.proj", "patches_norm": "patch_embed.norm", "norm": "norm"}
    for stage, depth in enumerate(trunk.depths):
        modules[f"merge{stage}_norm"] = f"layers.{stage}.downsample.norm"
        modules[f"merge{stage}"] = f"layers.{stage}.downsample.reduction"
        for block in range(depth):
            ours, theirs = f"stage{stage}_{block}", f"layers.{stage}.blocks.{block}"
            modules |= _block(ours, theirs) | {ours: f"{theirs}.attn"}
    return Map(modules, left_out=r"head\..*|.*\.(attn_mask|relative_position_index)")


def _pvt_map(trunk: PVT) -> Map:
    """A pyramid vision transformer v2 of timm."""
    modules = {"embed0": "patch_embed.proj", "embed0_norm": "patch_embed.norm"}
    for stage, depth in enumerate(trunk.depths):
        if stage:
            modules[f"embed{stage}"] = f"stages.{stage}.downsample.proj"
            modules[f"embed{stage}_norm"] = f"stages.{stage}.downsample.norm"
        modules[f"norm{stage}"] = f"stages.{stage}.norm"
        for block in range(depth):
            modules |= _block(f"stage{stage}_{block}", f"stages.{stage}.blocks.{block}", REDUCED)
    return Map(modules, left_out=r"head\..*")


def to_variables(state: StateDict, shapes: Variables, names: Map, what: str) -> Variables:
    """A network's variables from a state dict.

    Args:
      state: the tensors by name.
      shapes: `{"params": ..., "batch_stats": ...}` of the network, as `jax.eval_shape` gives them.
      names: the map.
      what: the file, for messages.

    Raises:
      InputError: lists every entry that is missing, unexpected or of another shape.
    """
    wanted = _by_name(shapes, names)
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(name for name in state.keys() - wanted.keys() if not _is_left_out(name, names))
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, (path, leaf) in wanted.items()
        if name in state and state[name].shape != (shape := _their_shape(name, path, leaf, names))
    ]
    problems = [
        f"{title} {_few(entries)}"
        for title, entries in (("missing", missing), ("unexpected", extra), ("shape", misshapen))
        if entries
    ]
    if problems:
        raise InputError(f"{what}: does not fit the network: {'; '.join(problems)}")
    return unflatten_dict(
        {
            path: _ours(name, state[name], path, leaf, names).astype(leaf.dtype)
            for name, (path, leaf) in wanted.items()
        }
    )


def to_state_dict(variables: Variables, names: Map, extras: Mapping[str, Any]) -> StateDict:
    """The way back: a network's variables as a state dict.

    Args:
      variables: of the network.
      names: the map.
      extras: what `left_over` gave; counters of BatchNorm that it does not have become 0.
    """
    found = _by_name(variables, names)
    state = {
        name: _theirs(name, np.asarray(leaf), path, names) for name, (path, leaf) in found.items()
    }
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    state |= {f"{norm}{COUNTER}": np.array(0, np.int64) for norm in norms}
    return state | {name: np.asarray(value) for name, value in extras.items()}


def left_over(state: StateDict, names: Map) -> StateDict:
    """What ours has no place for: counters of BatchNorm, and what the map leaves out."""
    return {name: value for name, value in state.items() if _is_left_out(name, names)}


def _by_name(variables: Variables, names: Map) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Every leaf of ours by its name there, with its path."""
    found = {}
    for path, leaf in flatten_dict(variables).items():
        ours = "/".join(path[1:-1])
        if ours not in names.modules:
            raise InputError(
                f"{ours} has no name in the authors' code; only the recipes v1_public (which "
                "shares one projection) and v2 can be written for it"
            )
        module = names.modules[ours]
        # A parameter of the network itself stands without a dot.
        found[f"{module}.{LEAVES[path[-1]]}".removeprefix(".")] = (path, leaf)
    return found


def _is_left_out(name: str, names: Map) -> bool:
    return name.endswith(f".{COUNTER}") or re.fullmatch(names.left_out, name) is not None


def _their_shape(name: str, path: Sequence[str], leaf: Any, names: Map) -> tuple[int, ...]:
    return _theirs(name, np.broadcast_to(np.float32(0), leaf.shape), path, names).shape


def _ours(name: str, value: np.ndarray, path: Sequence[str], leaf: Any, names: Map) -> np.ndarray:
    """(out, in, h, w) -> (h, w, in, out); (out, in) or (out, in, 1, 1) -> (in, out)."""
    if path[-1] == "mixing":
        return value[0].T
    if path[-1] != "kernel":
        return value
    if leaf.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return _swap(name, value.reshape(value.shape[:2]).T, names)


def _theirs(name: str, value: np.ndarray, path: Sequence[str], names: Map) -> np.ndarray:
    """The inverse of `_ours`."""
    if path[-1] == "mixing":
        return value.T[None]
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    value = _swap(name, value, names).T
    return value[..., None, None] if name.rpartition(".")[0] in names.convolutions else value


def _swap(name: str, kernel: np.ndarray, names: Map) -> np.ndarray:
    """A kernel (in, out) with the halves of its input exchanged, where the map says so."""
    if name.rpartition(".")[0] not in names.swapped:
        return kernel
    return np.concatenate(np.split(kernel, 2)[::-1])


def _few(entries: Sequence[str], count: int = 5) -> str:
    more = f" and {len(entries) - count} more" if len(entries) > count else ""
    return ", ".join(entries[:count]) + more

"""Which tensor of a PyTorch state dict is which variable of ours.

A map is explicit: from the path of every module of ours to the name of the module there. Entries of
a state dict that have no variable of ours (counters of BatchNorm, the head of a classifier) are
listed as well; any other is an error. Layouts follow from the kind of a leaf. The map of a trunk is
its method `torch_names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffmic_jax.errors import InputError
from diffmic_jax.nn.state_dict import StateDict
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
    "reg_token": "reg_token",
    "q_bias": "q_bias",
    "v_bias": "v_bias",
    "gamma": "gamma",
    "relative_position_bias": "relative_position_bias_table",
    "mixing": "cond_weight",
}
COUNTER = "num_batches_tracked"
"""A buffer of PyTorch's BatchNorm; ours has none."""


class Map(NamedTuple):
    """The names of a network in a state dict."""

    modules: Modules
    convolutions: tuple[str, ...] = ()
    """Modules there that are 1x1 convolutions, where ours are dense layers."""
    swapped: tuple[str, ...] = ()
    """Modules there whose input has its second half first."""
    left_out: str = r"(?!)"
    """Pattern of further names there that have no variable of ours."""
    prefix: str = ""
    """Prefix of every name in the published file, without which the names here are given."""
    standard: Callable[[StateDict], StateDict] = dict
    """From other files of the same network to the names here; leaves these as they are."""


@runtime_checkable
class Named(Protocol):
    """A trunk with names in a published state dict."""

    def torch_names(self) -> Map:
        """The names of its modules there, from its own root."""
        ...


def renaming(new: Modules, old: Modules) -> Callable[[StateDict], StateDict]:
    """For `Map.standard`: names of another origin to those of a map; others stay as they are.

    Args:
      new: path of a module of ours to its name in the map.
      old: path of a module of ours to its name of the other origin.
    """
    names = {theirs: new[ours] for ours, theirs in old.items() if ours in new}

    def standard(state: StateDict) -> StateDict:
        if not any(name.rpartition(".")[0] in names for name in state):
            return state
        split = {name: name.rpartition(".") for name in state}
        return {
            f"{names.get(split[name][0], split[name][0])}.{split[name][2]}": value
            for name, value in state.items()
        }

    return standard


def within(modules: Modules, ours: str, theirs: str) -> Modules:
    """The names of a trunk inside a larger network.

    Args:
      modules: of the trunk itself.
      ours: path of the trunk in our network.
      theirs: the prefix of its names there, with its dot.
    """
    return {
        f"{ours}/{path}".removesuffix("/"): f"{theirs}{name}".removesuffix(".")
        for path, name in modules.items()
    }


MLP = {"norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
ATTENTION = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj"} | MLP
"""Layers of a transformer block: ours -> theirs."""


def block(ours: str, theirs: str, layers: Mapping[str, str] = ATTENTION) -> Modules:
    """The names of a block's layers."""
    return {f"{ours}/{layer}": f"{theirs}.{name}" for layer, name in layers.items()}


def renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """A name by the first rule (pattern of the whole name, and its replacement) that it fits."""
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return name


def to_variables(state: StateDict, shapes: Variables, names: Map, *, what: str) -> Variables:
    """A network's variables from a state dict.

    Args:
      state: the tensors by name.
      shapes: `{"params": ..., "batch_stats": ...}` of the network, as `jax.eval_shape` gives them.
      names: the map.
      what: the file, for messages.

    Raises:
      InputError: lists every entry that is missing, unexpected or of another shape.
    """
    state = names.standard(state)
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
    flat = {
        path: _ours(name, state[name], path, leaf, names).astype(leaf.dtype)
        for name, (path, leaf) in wanted.items()
    }
    return cast(Variables, unflatten_dict(flat))


def to_state_dict(variables: Variables, names: Map, extras: Mapping[str, Any]) -> StateDict:
    """A network's variables as a state dict, the inverse of `to_variables`.

    Args:
      variables: of the network.
      names: the map.
      extras: the result of `left_over`; counters of BatchNorm that it does not have become 0.
    """
    found = _by_name(variables, names)
    state = {
        name: _theirs(name, np.asarray(leaf), path, names) for name, (path, leaf) in found.items()
    }
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    state |= {f"{norm}{COUNTER}": np.array(0, np.int64) for norm in norms}
    return state | {name: np.asarray(value) for name, value in extras.items()}


def left_over(state: StateDict, names: Map) -> StateDict:
    """Entries without a variable of ours: counters of BatchNorm, and what the map leaves out."""
    return {name: value for name, value in state.items() if _is_left_out(name, names)}


def _by_name(variables: Variables, names: Map) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Every leaf of ours by its name there, with its path."""
    found = {}
    for path, leaf in flatten_dict(variables).items():
        ours = "/".join(path[1:-1])
        if ours not in names.modules:
            raise InputError(f"{ours} of our network has no name in such a state dict")
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
        return np.transpose(value[0])
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
    """A kernel (in, out) with the halves of its input exchanged, where the map has it so."""
    if name.rpartition(".")[0] not in names.swapped:
        return kernel
    return np.concatenate(np.split(kernel, 2)[::-1])


def _few(entries: Sequence[str], count: int = 5) -> str:
    more = f" and {len(entries) - count} more" if len(entries) > count else ""
    return ", ".join(entries[:count]) + more

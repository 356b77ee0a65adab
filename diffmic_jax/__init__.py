"""DiffMIC in JAX: diffusion models over the label that classify medical images.

clf = diffmic_jax.fit("photos", config="default:v2")    # train; leaves a workdir
clf = diffmic_jax.load("runs/mine")                     # or a file made by export
clf.predict(["a.png", "b.dcm"]).labels
clf.evaluate("test").metrics["accuracy"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffmic_jax.api import Classifier, fit, load

__version__ = "0.2.0"
__all__ = ["Classifier", "__version__", "fit", "load"]


def __getattr__(name: str) -> Any:
    # Loading JAX takes a second, which `diffmic --help` need not wait for.
    if name in __all__:
        return getattr(importlib.import_module("diffmic_jax.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

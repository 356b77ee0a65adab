"""DINOv2 (Oquab et al. 2023) and DINOv3 (Simeoni et al. 2025): trunks taught without labels."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffmic_jax.nn.entry import TrunkEntry
from diffmic_jax.nn.positions import Table
from diffmic_jax.nn.preprocess import IMAGENET_BICUBIC
from diffmic_jax.nn.vit import Style, entry

Fields = dict[str, Any]

SMALL: Fields = {"depth": 12, "num_features": 384, "num_heads": 6}
BASE: Fields = {"depth": 12, "num_features": 768, "num_heads": 12}

V2: Fields = {
    "kind": "dinov2",
    "class_token": True,
    "patch": 14,
    "style": Style(layer_scale=1e-5),
    "preprocess": dataclasses.replace(IMAGENET_BICUBIC, size=518),
    # The authors' code reads the table so; timm always smooths it.
    "table": Table(grid=37, offset=0.1),
}
V2_REGISTERS = V2 | {"registers": 4, "table": Table(grid=37, class_row=False, antialias=True)}
V3: Fields = {
    "kind": "dinov3",
    "class_token": True,
    "registers": 4,
    "table": None,
    "style": Style(layer_scale=1e-5, epsilon=1e-5, biases=""),
    "preprocess": dataclasses.replace(IMAGENET_BICUBIC, size=256),
}


def _v2(size: Fields, name: str, *, registers: bool = False) -> TrunkEntry:
    design = V2_REGISTERS if registers else V2
    return entry(**design, **size, published=f"timm/{name}.lvd142m", aliases=(name,))


def _v3(size: Fields, name: str, **style: Any) -> TrunkEntry:
    design = V3 | {"style": dataclasses.replace(V3["style"], **style)}
    return entry(**design, **size, published=f"timm/{name}.lvd1689m", aliases=(name,))


TRUNKS = {
    "dinov2_vits14": _v2(SMALL, "vit_small_patch14_dinov2"),
    "dinov2_vitb14": _v2(BASE, "vit_base_patch14_dinov2"),
    "dinov2_vits14_reg": _v2(SMALL, "vit_small_patch14_reg4_dinov2", registers=True),
    "dinov2_vitb14_reg": _v2(BASE, "vit_base_patch14_reg4_dinov2", registers=True),
    "dinov3_vits16": _v3(SMALL, "vit_small_patch16_dinov3"),
    "dinov3_vits16plus": _v3(SMALL, "vit_small_plus_patch16_dinov3", gated=True),
    "dinov3_vitb16": _v3(BASE, "vit_base_patch16_dinov3"),
    # With biases, for weights that are not the authors' own.
    "dinov3_vits16_qkvb": _v3(SMALL, "vit_small_patch16_dinov3_qkvb", biases="qv"),
    "dinov3_vitb16_qkvb": _v3(BASE, "vit_base_patch16_dinov3_qkvb", biases="qv"),
}
"""Name -> entry of the registry."""

"""Names of the two networks in the state dicts of the authors' code."""

from __future__ import annotations

import re

import flax.linen as nn

from diffmic_jax.errors import InputError
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.nn.names import Map, Modules, within
from diffmic_jax.nn.resnet import ResNet
from diffmic_jax.nn.vit import ViT


def guidance_map(net: DCG) -> Map:
    """The guidance network (DCG) of the authors' code; v2's has a layer that it never uses.

    Raises:
      InputError: the network has one trunk for images and regions, or a class map of its own for
        finer features.
    """
    if net.local_trunk is None or net.saliency_stride:
        raise InputError(
            "the authors' code has two trunks and a class map of the last features; only a run of "
            "guidance.local_trunk= (empty) and guidance.saliency_stride=0 can be written for it"
        )
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

    Raises:
      InputError: the network has several input projections, and the authors' has one; or it has no
        image encoder.
    """
    if net.encoder is None:
        raise InputError(
            "the authors' code has an image encoder; a run with denoiser.encoder=guidance cannot "
            "be written for it"
        )
    if net.num_projections > 1:
        raise InputError(
            "projections_1/linear has no name in the authors' code; only the recipes v1_public "
            "(which shares one projection) and v2 can be written for it"
        )
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


def _trunk_modules(trunk: nn.Module, ours: str, theirs: str) -> Modules:
    """A trunk inside the authors' networks: a numbered ResNet, a ViT, or one without parameters."""
    if isinstance(trunk, ResNet):
        return within(trunk.torch_modules(numbered=True), ours, theirs)
    if isinstance(trunk, ViT):
        return within(trunk.torch_names().modules, ours, theirs)
    return {}

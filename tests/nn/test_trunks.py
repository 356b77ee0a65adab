"""The registry of trunks: names, options, sizes that fit, and modules with variables."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import names, resnet, state_dict, trunks, vit
from diffmic_jax.nn.baselines.pvt import PVT
from diffmic_jax.nn.baselines.swin import Swin
from diffmic_jax.nn.convnext import ConvNeXt
from diffmic_jax.nn.entry import Trunk, look
from tests import tiny_trunks
from tests.helpers import arbitrary_variables

PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "efficientnet_lite0": 3_371_008,
    "efficientnet_lite1": 4_135_680,
    "efficientnet_lite2": 4_811_072,
    "convnext_tiny": 27_820_128,
    "convnext_small": 49_454_688,
    "convnext_base": 87_566_464,
    "efficientsam_ti": 5_523_840,
    "efficientsam_s": 21_664_512,
    "vit_s16": 21_665_664,
    "vit_b16": 85_798_656,
    "dinov2_vits14": 22_056_192,
    "dinov2_vitb14": 86_579_712,
    "dinov2_vits14_reg": 22_057_344,
    "dinov2_vitb14_reg": 86_582_016,
    "dinov3_vits16": 21_586_944,
    "dinov3_vits16plus": 28_683_264,
    "dinov3_vitb16": 85_641_216,
    "dinov3_vits16_qkvb": 21_596_160,
    "dinov3_vitb16_qkvb": 85_659_648,
    "swin_t": 27_519_354,
    "pvt_v2_b2": 24_849_856,
}
"""As many as timm 1.0.31 has without the head; EfficientSAM's have no class token and norm."""
OURS = tuple(name for name in trunks.names() if name not in tiny_trunks.NAMES)


@pytest.mark.parametrize("name", OURS)
def test_every_trunk_makes_features_of_an_image_that_fits(name):
    trunk: Any = trunks.build(name, dtype=jnp.bfloat16, remat=True)
    multiple = trunks.entry(name).multiple
    side = multiple * max(2, -(-32 // multiple))
    trunks.check(name, side, "guidance.backbone")
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    called = []

    def keep(call, args, kwargs, context):
        called.append(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(keep):
        found, variables = jax.eval_shape(
            lambda image: trunk.init_with_output(jax.random.key(0), image, train=False), image
        )
    init = partial(trunk.init_with_output, train=False, method="pyramid")
    grids, _ = jax.eval_shape(init, jax.random.key(0), image)
    assert list(grids) == sorted(trunk.strides)
    assert all(grid.shape[1:3] == (-(-side // stride),) * 2 for stride, grid in grids.items())
    assert grids[trunk.strides[-1]].shape == found.shape
    batch, height, width, features = found.shape
    assert (batch, height == width, found.dtype) == (2, True, jnp.bfloat16)
    assert 1 <= height < side
    assert features >= 64
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert isinstance(trunk, names.Named)
    assert isinstance(trunk, Trunk)
    listed = [each for block in trunk.blocks() for each in block]
    assert sorted(listed) == sorted(variables["params"])
    layers = dict.fromkeys(path[0] for path in called if len(path) == 1)
    assert [each for each in listed if each in layers] == list(layers)
    assert set(listed) - set(layers) <= set(trunk.blocks()[0])  # tokens and positions


@pytest.mark.parametrize("name", ["tiny", "tiny_vit"])
def test_the_last_features_of_a_pyramid_are_those_of_the_trunk(name):
    module: Any = trunks.build(name)
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    init = partial(module.init, train=False)
    variables = arbitrary_variables(jax.eval_shape(init, jax.random.key(0), x))
    run = jax.jit(partial(module.apply, train=False), static_argnames="method")
    grids = run(variables, x, method="pyramid")
    np.testing.assert_array_equal(grids[module.strides[-1]], run(variables, x))
    assert [len(grids[stride][0]) for stride in module.strides] == [
        32 // stride for stride in module.strides
    ]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet50", "resnet50"),
        ("resnet50.tv_in1k", "resnet50"),
        ("timm/resnet50.tv_in1k", "resnet50"),
        ("vit_small_patch16_224", "vit_s16"),
        ("deit_small_patch16_224.fb_in1k", "vit_s16"),
        ("timm/vit_base_patch16_224", "vit_b16"),
        ("swin_tiny_patch4_window7_224", "swin_t"),
        ("pvt_v2_b2.in1k", "pvt_v2_b2"),
        ("convnext_tiny.fb_in1k", "convnext_tiny"),
        ("vit_small_patch14_dinov2.lvd142m", "dinov2_vits14"),
        ("vit_base_patch14_reg4_dinov2", "dinov2_vitb14_reg"),
        ("vit_small_plus_patch16_dinov3", "dinov3_vits16plus"),
    ],
)
def test_a_trunk_has_its_name_in_timm_too(name, ours):
    assert trunks.entry(name) is trunks.entry(ours)


def test_published_weights_are_those_of_the_same_name_in_timm():
    for name in OURS:
        published = trunks.published(name)
        if published.startswith("timm/"):
            assert trunks.entry(published) is trunks.entry(name)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="trunk 'resnet19' is unknown; choose .* resnet50"):
        trunks.build("resnet19")
    with pytest.raises(InputError, match="config.denoiser.encoder: trunk 'unet' is unknown"):
        trunks.check("unet", 32, "denoiser.encoder")


@pytest.mark.parametrize(
    ("name", "size", "multiple"),
    [("efficientsam_s", 100, 16), ("vit_s16", 100, 16), ("swin_t", 112, 32), ("pvt_v2_b2", 16, 32)],
)
def test_images_that_do_not_fit_are_refused(name, size, multiple):
    message = f"config.denoiser.encoder={name} does not fit images of {size} px; .* {multiple} px"
    with pytest.raises(InputError, match=message):
        trunks.check(name, size, "denoiser.encoder")
    trunks.check("resnet18", size, "denoiser.encoder")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="there is a trunk 'resnet18' already"):
        trunks.register("resnet18", resnet.entry(stage_sizes=(1,)))


def test_options_that_a_trunk_does_not_have_are_ignored():
    assert trunks.build("tiny_vit", width=8, stem="small") == trunks.build("tiny_vit")
    narrow: Any = trunks.build("tiny", width=8, stem="small", momentum=0.5, remat=True)
    assert (narrow.width, narrow.stem, narrow.momentum, narrow.remat) == (8, "small", 0.5, True)


@pytest.mark.parametrize("name", ["tiny", "tiny_vit"])
def test_a_trunk_is_created_with_random_variables(name):
    module, variables = trunks.create(name)
    x = np.random.default_rng(0).standard_normal((2, 32, 48, 3)).astype(np.float32)
    features = module.apply(variables, x, train=False)
    assert features.shape == {"tiny": (2, 4, 6, 128), "tiny_vit": (2, 2, 3, 16)}[name]
    assert ("batch_stats" in variables) == (name == "tiny")
    again = trunks.create(name)[1]
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert np.std(features) > 0


def weights_of(name: str) -> dict[str, np.ndarray]:
    """A state dict for a trunk, from other values than those of `create`."""
    module, variables = trunks.create(name)
    assert isinstance(module, names.Named)
    named = names.to_state_dict(variables, module.torch_names(), {})
    return {key: value + np.ones_like(value) for key, value in named.items()}


def test_a_trunk_is_created_with_the_weights_of_a_file(tmp_path):
    path = tmp_path / "w.safetensors"
    state_dict.write(path, weights_of("tiny"))
    for given in (path, str(path)):
        _, variables = trunks.create("tiny", pretrained=given)
        kernel = state_dict.read(path)["conv1.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(variables["params"]["conv1"]["kernel"], kernel)
    with pytest.raises(InputError, match="pretrained='nowhere.pth': no such file"):
        trunks.create("tiny", pretrained="nowhere.pth")


def test_a_trunk_is_created_with_its_published_weights(tmp_path, monkeypatch):
    path, asked = tmp_path / "model.safetensors", []
    tiny = resnet.entry(stage_sizes=(1, 1), published="timm/tiny2.one")
    monkeypatch.setitem(trunks._TRUNKS, "tiny2", tiny)
    state_dict.write(path, weights_of("tiny2"))

    def cache(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    hub = SimpleNamespace(try_to_load_from_cache=cache, hf_hub_download=None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for name in ("tiny2", "timm/tiny2.one", "tiny2.one"):
        trunks.create(name, pretrained=True)
    assert asked == [("timm/tiny2.one", "model.safetensors")] * 3
    message = "^tiny2.two: .* loads timm/tiny2.one; .* give pretrained='timm/tiny2.two'"
    with pytest.raises(InputError, match=message):
        trunks.create("tiny2.two", pretrained=True)
    with pytest.raises(InputError, match="None are known for tiny"):
        trunks.create("tiny", pretrained=True)


def test_published_weights_are_of_a_resnet_of_the_usual_width():
    assert trunks.published("resnet50") == "timm/resnet50.tv_in1k"
    for options in ({"width": 32}, {"stem": "small"}):
        with pytest.raises(InputError, match="None are known for resnet50, width "):
            trunks.published("resnet50", **options)
    assert trunks.published("vit_s16", width=32, stem="small") == trunks.published("vit_s16")


DEEP = {
    "vit": vit.ViT(depth=2, num_features=8, num_heads=2, class_token=True),
    "convnext": ConvNeXt(depths=(1, 1), widths=(4, 8)),
    "swin": Swin(depths=(1, 1), num_heads=(1, 2), width=8),
    "pvt": PVT(depths=(1, 1), widths=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2)),
}


@pytest.mark.parametrize("name", DEEP)
def test_the_last_block_is_left_out_in_training_alone(name):
    net: Any = DEEP[name].clone(drop_path=1 - 1e-7)
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    shapes = jax.eval_shape(partial(net.init, train=False), jax.random.key(0), image)
    variables = arbitrary_variables(shapes)
    first, last = ("blocks_0", "blocks_1") if name == "vit" else ("stage0_0", "stage1_0")

    @partial(jax.jit, static_argnums=1)
    def run(variables: Any, train: bool) -> Any:
        return net.apply(variables, image, train, rngs={"drop_path": jax.random.key(0)})

    def matters(block: str, train: bool) -> bool:
        params = variables["params"]
        changed = params | {block: jax.tree.map(lambda x: x + 0.5, params[block])}
        return not np.array_equal(run(variables, train), run({"params": changed}, train))

    assert not matters(last, train=True)
    assert matters(first, train=True)
    assert matters(last, train=False)


def test_a_look_is_of_the_finer_grids():
    grids = {stride: jnp.full((2, 64 // stride, 3, stride), stride) for stride in (16, 8, 4)}
    found = look(grids)
    np.testing.assert_array_equal(found, np.full((2, 12), [4] * 4 + [8] * 8))
    assert look({16: grids[16]}).shape == (2, 16)

"""The guidance network: region choice, crops, and the whole against the reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.nn.dcg import DCG, crop_regions, merge_classes, select_regions
from diffmic_jax.nn.resnet import ResNet
from tests.golden_weights import dcg_variables, golden_dcg
from tests.helpers import arbitrary_variables, channels_last, check


@pytest.mark.parametrize(
    ("name", "window", "rounds"),
    [
        ("random", (1, 1), 6),
        ("random_win2", (2, 2), 6),
        ("random_win_round", (2, 2), 6),
        ("ties", (1, 1), 6),
        ("tiny_2x2", (1, 1), 6),
        # Then nothing is left but zeros, of which the reference takes the same over and over.
        ("two_peaks", (1, 1), 2),
    ],
)
def test_golden_regions(golden, name, window, rounds):
    g = golden("roi")
    ours = select_regions(channels_last(g[f"{name}_map"]), 6, window)
    assert ours.dtype == jnp.int32
    check(f"regions {name}", ours[:, :rounds], g[f"{name}_pos"][:, :rounds], 0)


def test_golden_regions_beside_a_flat_class(golden):
    # Image 0 has a flat class, on which the reference fails; image 1 is sound.
    g = golden("roi")
    ours = select_regions(channels_last(g["one_flat_class_map"]), 6, (1, 1))
    check("regions one_flat_class, image 1", ours[1], g["one_flat_class_pos"][1], 0)


def test_flat_class_counts_as_nothing(golden):
    saliency = channels_last(golden("roi")["one_flat_class_map"])[:1]
    others = np.delete(saliency, 3, axis=-1)
    np.testing.assert_allclose(merge_classes(saliency), merge_classes(others), rtol=1e-6)
    np.testing.assert_array_equal(
        select_regions(saliency, 6, (1, 1)), select_regions(others, 6, (1, 1))
    )


def test_flat_map_gives_each_corner_once(golden):
    cells = select_regions(channels_last(golden("roi")["all_flat_map"]), 6, (1, 1))
    np.testing.assert_array_equal(cells[0], [[0, i] for i in range(6)])


@pytest.mark.parametrize(("name", "window"), [("1x1", (1, 1)), ("2x3", (2, 3))])
def test_golden_first_window(golden, name, window):
    # One channel at a time: min-max scaling does not move the best window.
    g = golden("roi")
    maps = g["cur"].reshape(6, 6, 8, 1)
    ours = select_regions(maps, 1, window)[:, 0]
    check(f"window {name}", ours, g[f"maxwin_{name}"].reshape(6, 2), 0)


def test_no_corner_is_taken_twice():
    saliency = np.random.default_rng(0).standard_normal((8, 4, 4, 3))
    cells = np.asarray(select_regions(saliency, 9, (2, 2)))
    for image in cells:
        assert len({tuple(cell) for cell in image}) == 9
        assert image.max() <= 2


def test_golden_crops(golden):
    g = golden("roi")
    corners = np.rint(g["crop_pos"]).astype(np.int32)
    ours = crop_regions(g["crop_img"][None, :, :, None], corners[None], 32)
    check("crops over the border", ours[0, ..., 0], g["crop_out"], 0)


def test_crop_inside_is_a_slice_of_every_channel():
    image = np.random.default_rng(1).standard_normal((2, 9, 9, 3))
    ours = crop_regions(image, np.array([[[2, 3]], [[5, 0]]]), 4)
    np.testing.assert_allclose(ours[0, 0], image[0, 2:6, 3:7], rtol=1e-6)
    np.testing.assert_allclose(ours[1, 0], image[1, 5:9, 0:4], rtol=1e-6)


@pytest.mark.parametrize(("side", "name"), [(224, "convert_px"), (100, "convert_px_100")])
def test_golden_corners_in_pixels(golden, side, name):
    # One bright cell at a time leads to its pixel.
    g = golden("roi")
    saliency = np.zeros((3, 7, 7, 1), np.float32)
    for i, (row, col) in enumerate(g["convert_cells"]):
        saliency[i, row, col] = 1
    unused = ResNet(stage_sizes=())
    net = DCG(num_classes=1, global_trunk=unused, local_trunk=unused, num_regions=1, region_size=8)
    ours = net._corners(saliency, (side, side))
    check(f"corners of {side} px", ours[:, 0], g[name], 0)


@pytest.fixture(scope="module")
def guidance(golden):
    """Our guidance prediction for the golden images, in evaluation mode."""
    image = channels_last(golden("images224")["x"])
    net = golden_dcg()
    return jax.jit(lambda v, image: net.apply(v, image, False))(dcg_variables(), image)


def test_golden_forward(golden, guidance):
    g = golden("dcg")
    check("dcg corners", guidance.corners, g["roi_px"], 0)
    check("dcg crops", guidance.patches[:2, ..., 0], g["crops_first2"], 0)
    ours = {
        "saliency": jnp.moveaxis(guidance.saliency, -1, 1),
        "y_global": guidance.global_,
        "y_local": guidance.local,
        "y_fusion": guidance.fused,
        "patch_attns": guidance.attention,
    }
    for name, value in ours.items():
        check(f"dcg {name}", value, g[name], 1e-5)
    check("dcg prior", jax.nn.softmax(guidance.fused), g["y_fusion_softmax"], 1e-6)


def test_crops_of_the_first_channel_are_gray(guidance):
    np.testing.assert_array_equal(
        guidance.patches[..., 1:], guidance.patches[..., :1].repeat(2, -1)
    )


@pytest.fixture(scope="module")
def small():
    """A narrow network for 32 px and its weights."""
    trunk = ResNet(stage_sizes=(1, 1), width=8, stem="small")
    net = DCG(
        num_classes=3, global_trunk=trunk, local_trunk=trunk.clone(), num_regions=4, region_size=8
    )
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda key: net.init(key, image, False), jax.random.key(0))
    return net, arbitrary_variables(shapes)


def test_flat_image_gives_finite_gradients(small):
    net, variables = small

    def loss(params, image):
        guidance, _ = net.apply(
            {**variables, "params": params}, image, True, mutable=["batch_stats"]
        )
        return guidance.fused.sum() + guidance.attention[:, 0].sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        variables["params"], jnp.zeros((2, 32, 32, 3))
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_prediction_is_consistent(small):
    net, variables = small
    image = np.random.default_rng(2).standard_normal((3, 32, 32, 3)).astype(np.float32)
    guidance = jax.jit(lambda image: net.apply(variables, image, False))(image)
    np.testing.assert_allclose(guidance.fused, (guidance.global_ + guidance.local) / 2, atol=1e-6)
    np.testing.assert_allclose(guidance.global_, guidance.saliency.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(guidance.attention.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(guidance.patches, crop_regions(image, guidance.corners, 8))

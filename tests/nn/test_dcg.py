"""The guidance network: region choice, crops, and the whole against the reference."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.nn import trunks
from diffmic_jax.nn.dcg import DCG, crop_regions, merge_classes, select_regions
from diffmic_jax.nn.resnet import ResNet
from tests import tiny_trunks  # noqa: F401  (registers `tiny_vit`)
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


def chosen_one_by_one(merged: np.ndarray, count: int, window: tuple[int, int], most: float):
    """Corners of one map [h, w], by looking at every window in every round; `most` is a share."""
    merged, covered = merged.copy(), np.zeros(merged.shape, bool)
    rows, cols = (side - w + 1 for side, w in zip(merged.shape, window, strict=True))
    left, chosen = [(row, col) for row in range(rows) for col in range(cols)], []

    def cells(corner):
        row, col = corner
        return slice(row, row + window[0]), slice(col, col + window[1])

    for _ in range(count):
        if not left:
            chosen.append((0, 0))
            continue
        shares = {corner: covered[cells(corner)].mean() for corner in left}
        limit = max(most, min(shares.values()))
        allowed = [corner for corner in left if shares[corner] <= limit + 1e-6]
        best = max(allowed, key=lambda corner: merged[cells(corner)].mean().round(5))
        left.remove(best)
        chosen.append(best)
        merged[cells(best)], covered[cells(best)] = 0, True
    return chosen


@pytest.mark.parametrize(
    ("grid", "window", "overlap"),
    [
        *(((6, 7), (2, 3), overlap) for overlap in (0.0, 0.34, 1.0)),
        # Here the windows that share little run out,
        ((5, 5), (3, 3), 0.0),
        # and here the windows.
        ((2, 2), (1, 1), 0.5),
    ],
)
def test_regions_overlap_as_little_as_is_asked(grid, window, overlap):
    saliency = np.random.default_rng(3).standard_normal((12, *grid, 2)).astype(np.float32)
    choose = jax.jit(lambda x: select_regions(x, 7, window, overlap=overlap))
    ours = np.asarray(choose(saliency))
    merged = np.asarray(merge_classes(saliency))
    for own, image in zip(ours, merged, strict=True):
        np.testing.assert_array_equal(own, chosen_one_by_one(image, 7, window, overlap))


def distances(corners) -> np.ndarray:
    """Between each two of K corners, along the axis where they are further apart."""
    corners = np.asarray(corners)
    pairs = np.triu_indices(len(corners), 1)
    return np.abs(corners[:, None] - corners).max(axis=-1)[pairs]


def a_square(side: int, width: int) -> np.ndarray:
    """Saliency of ones in a square in the middle of the map."""
    saliency, start = np.zeros((1, side, side, 1), np.float32), (side - width) // 2
    saliency[:, start : start + width, start : start + width] = 1
    return saliency


def test_around_one_object_regions_lie_apart_only_if_that_is_asked():
    free, unlimited, apart = (
        select_regions(a_square(9, 5), 4, (3, 3), **options)[0]
        for options in ({}, {"overlap": 1.0}, {"overlap": 0.0})
    )
    np.testing.assert_array_equal(free, unlimited)
    assert distances(free).min() < 3 <= distances(apart).min()


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


def narrow(**options):
    """A narrow network for 32 px and its weights."""
    trunk = ResNet(stage_sizes=(1, 1), width=8, stem="small")
    options = {"local_trunk": trunk.clone(), "num_regions": 4, "region_size": 8} | options
    net = DCG(num_classes=3, global_trunk=trunk, **options)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda key: net.init(key, image, False), jax.random.key(0))
    return net, arbitrary_variables(shapes)


@pytest.fixture(scope="module")
def small():
    return narrow()


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


def some_images(count: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).standard_normal((count, 32, 32, 3)), jnp.float32)


def trunk_of(variables, name="global_trunk"):
    """The variables of one trunk."""
    return {kind: tree[name] for kind, tree in variables.items()}


def test_a_finer_class_map_is_that_of_both_features_joined():
    net, variables = narrow(saliency_stride=1)
    image = some_images()
    guidance = jax.jit(lambda image: net.apply(variables, image, False))(image)
    assert guidance.saliency.shape == (3, 32, 32, 3)
    trunk = net.global_trunk
    run = jax.jit(lambda image: trunk.apply(trunk_of(variables), image, False, method="pyramid"))
    fine, last = run(image).values()
    upsampled = jax.image.resize(last, (3, 32, 32, last.shape[-1]), "bilinear")
    maps = ("saliency", "saliency_detail")
    kernel = jnp.concatenate([variables["params"][name]["linear"]["kernel"] for name in maps])
    joined = jnp.concatenate([upsampled, fine], axis=-1)
    np.testing.assert_allclose(guidance.saliency, joined @ kernel, atol=1e-5)
    np.testing.assert_allclose(guidance.global_, guidance.saliency.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(guidance.pooled, last.mean((1, 2)), atol=1e-6)
    cells = select_regions(guidance.saliency, 4, (8, 8))
    np.testing.assert_array_equal(guidance.corners, cells)


def test_the_last_stride_by_its_number_is_the_default(small):
    net, variables = small
    image = some_images()
    programs = [
        str(jax.make_jaxpr(partial(each.apply, train=False))(variables, image))
        for each in (net, net.clone(saliency_stride=2))
    ]
    assert programs[0] == programs[1]


def test_the_limit_of_overlap_reaches_the_choice():
    net, _ = narrow()
    for overlap in (0.0, 1.0):
        corners = net.clone(region_overlap=overlap)._corners(a_square(32, 12), (32, 32))[0]
        assert (distances(corners).min() >= 8) == (overlap == 0)


def test_classes_can_count_by_their_prediction_when_regions_are_found():
    # The first class is predicted, by a cell in the middle; elsewhere the second is as high.
    saliency = np.zeros((1, 5, 5, 2), np.float32)
    saliency[0, 2, 2] = 100, -100
    saliency[0, 0, 0] = 0, 1
    alike = select_regions(saliency, 1, (1, 1))
    np.testing.assert_array_equal(alike, [[[0, 0]]])
    weighted = select_regions(saliency, 1, (1, 1), weights=np.array([[0.9, 0.1]], np.float32))
    np.testing.assert_array_equal(weighted, [[[2, 2]]])


@pytest.mark.parametrize("weights", ["uniform", "predicted"])
def test_regions_are_found_on_the_map_that_is_shown(weights):
    net, variables = narrow(saliency_stride=1, saliency_weights=weights)
    guidance = jax.jit(lambda image: net.apply(variables, image, False))(some_images())
    shown = net.merged(guidance)
    classes = jnp.ones((3, 3)) if weights == "uniform" else jax.nn.softmax(guidance.global_)
    expected = merge_classes(guidance.saliency, classes)
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    np.testing.assert_array_equal(guidance.corners, select_regions(shown[..., None], 4, (8, 8)))


def test_a_shared_trunk_classifies_regions_by_the_same_weights():
    net, variables = narrow(local_trunk=None)
    apart, _ = narrow()
    assert variables["params"].keys() == {"global_trunk", "saliency", "attention", "classifier"}
    assert variables["batch_stats"].keys() == {"global_trunk", "local_trunk"}
    copied = variables["params"] | {"local_trunk": variables["params"]["global_trunk"]}
    own = variables["batch_stats"] | {
        "local_trunk": jax.tree.map(lambda x: x + 0.5, variables["batch_stats"]["global_trunk"])
    }

    @partial(jax.jit, static_argnums=0)
    def run(each, params):
        def loss(params):
            bound = {"params": params, "batch_stats": own}
            found = each.apply(bound, some_images(), True, mutable=["batch_stats"])
            return found[0].fused.sum(), found

        return jax.grad(loss, has_aux=True)(params)

    together, shared = run(net, variables["params"])
    each, two = run(apart, copied)
    # Regions change no statistics of whole images, nor the other way round.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), shared, two)
    summed = jax.tree.map(jnp.add, each["global_trunk"], each["local_trunk"])
    slopes = together["global_trunk"], summed
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *slopes)


def test_evaluation_approaches_training_with_a_shared_trunk():
    # On one batch, over and over, the statistics of each stream become those of the batch.
    net, variables = narrow(local_trunk=None)

    @jax.jit
    def step(stats):
        bound = {"params": variables["params"], "batch_stats": stats}
        guidance, updates = net.apply(bound, some_images(8), True, mutable=["batch_stats"])
        return guidance, updates["batch_stats"]

    stats = variables["batch_stats"]
    for _ in range(120):
        guidance, stats = step(stats)
    after = jax.jit(lambda bound: net.apply(bound, some_images(8), False))(
        {"params": variables["params"], "batch_stats": stats}
    )
    np.testing.assert_array_equal(after.corners, guidance.corners)
    # The running variance is the unbiased one, which is the same for so many positions.
    np.testing.assert_allclose(after.fused, guidance.fused, rtol=2e-2, atol=2e-2)


def test_a_shared_trunk_without_statistics_needs_none():
    trunk = trunks.build("tiny_vit")
    net = DCG(num_classes=3, global_trunk=trunk, local_trunk=None, num_regions=2, region_size=16)
    image = some_images()
    variables = jax.eval_shape(lambda key: net.init(key, image, False), jax.random.key(0))
    assert variables.keys() == {"params"}
    variables = arbitrary_variables(variables)
    guidance = jax.jit(lambda image: net.apply(variables, image, True))(image)
    weights = {"params": variables["params"]["global_trunk"]}
    run = jax.jit(lambda patches: trunk.apply(weights, patches, False))
    h = jnp.stack([run(guidance.patches[:, k]) for k in range(2)], axis=1)
    z = (h[:, :, 0, 0] * guidance.attention[..., None]).sum(axis=1)
    np.testing.assert_allclose(guidance.features[:, 16:], z, atol=1e-5)

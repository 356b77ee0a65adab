from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.interop.names import denoiser_map, guidance_map
from diffmic_jax.nn import names, trunks
from diffmic_jax.nn.denoiser import Denoiser
from diffmic_jax.types import Prior, Variables
from tests import golden_weights


def golden_state(shapes: str) -> dict[str, np.ndarray]:
    """A state dict of the reference, by the recipe of the golden vectors."""
    entries = json.loads((golden_weights.GOLDEN / f"{shapes}.json").read_text())
    return {
        name: np.array(7, np.int64)
        if name.endswith(names.COUNTER)
        else golden_weights.draw(name, shape)
        for name, shape in entries.items()
    }


def shapes_of(variables: Variables) -> Variables:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)


@pytest.fixture(
    params=["shapes_denoiser_c5_d128", "shapes_dcg_c5_resnet50"], ids=["denoiser", "guidance"]
)
def network(request) -> tuple[dict[str, np.ndarray], Variables, names.Map]:
    """State dict, the same as ours by another map, and the map to be tested."""
    if "denoiser" in request.param:
        names_ = denoiser_map(golden_weights.golden_denoiser())
    else:
        names_ = guidance_map(golden_weights.golden_dcg())
    return golden_state(request.param), golden_weights.load_variables(request.param), names_


def test_every_entry_of_the_reference_has_its_place(network):
    state, expected, names_ = network
    ours = names.to_variables(state, shapes_of(expected), names_, what="file")
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_there_and_back_is_bitwise_the_same(network):
    state, expected, names_ = network
    ours = names.to_variables(state, shapes_of(expected), names_, what="file")
    back = names.to_state_dict(ours, names_, names.left_over(state, names_))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(back[name], value)


def test_all_that_does_not_fit_is_listed_at_once(network):
    state, expected, names_ = network
    trunk = next(name for name in state if name.endswith("f.0.weight"))
    missing, misshapen = trunk.replace("f.0", "f.5.0.conv1"), trunk
    del state[missing]
    state["head.weight"] = np.zeros(3, np.float32)
    state[misshapen] = state[misshapen][:, :2]
    with pytest.raises(InputError) as caught:
        names.to_variables(state, shapes_of(expected), names_, what="w.pth")
    assert str(caught.value) == (
        f"w.pth: does not fit the network: missing {missing}; unexpected head.weight; "
        f"shape {misshapen} is (64, 2, 7, 7), not (64, 3, 7, 7)"
    )


def test_the_denoiser_of_dual_conditioning_has_no_names():
    encoder = trunks.build("resnet18", width=8)
    denoiser = Denoiser(num_classes=5, encoder=encoder, feature_dim=16, num_projections=3)
    prior = [Prior(np.zeros((1, 5)), np.zeros((1, m)), i) for i, m in enumerate((10, 5, 5))]
    image = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(
        lambda key: denoiser.init(key, image, None, tuple(prior), method="initialize"),
        jax.random.key(0),
    )
    with pytest.raises(InputError, match="projections_1/linear has no name"):
        names.to_variables({}, shapes, denoiser_map(denoiser), what="file")


@pytest.mark.parametrize("changes", [{"local_trunk": None}, {"saliency_stride": 16}])
def test_a_guidance_that_the_authors_code_cannot_have_is_refused(changes):
    with pytest.raises(InputError, match=r"only a run of guidance\.local_trunk= \(empty\) and"):
        guidance_map(golden_weights.golden_dcg().clone(**changes))


def test_a_denoiser_without_a_trunk_is_refused():
    with pytest.raises(InputError, match="a run with denoiser.encoder=guidance cannot be written"):
        denoiser_map(golden_weights.golden_denoiser().clone(encoder=None))

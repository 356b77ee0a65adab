from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import get_args, get_type_hints

import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax import config
from diffmic_jax.errors import InputError
from diffmic_jax.method.build import Method, build
from diffmic_jax.method.task import Task
from diffmic_jax.nn import trunks
from diffmic_jax.nn.baselines.classifier import PlainClassifier
from diffmic_jax.nn.dcg import DCG
from diffmic_jax.types import Guidance
from tests.tiny import CLASSES, make_config, make_method

SEVERAL = Task(class_names=CLASSES, multi_label=True)


def learners(method: Method) -> list[tuple[bool, bool]]:
    """Of each phase, whether the guidance and the denoiser learn."""
    return [(phase.guidance, phase.denoiser) for phase in method.phases]


def test_a_schedule_that_keeps_no_signal_at_the_start_is_refused():
    with pytest.raises(InputError, match="config.sampling.start='full': the schedule keeps no"):
        make_method(diffusion__schedule="jsd")


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(0, (20, 60)), (50, (20, 30)), (20, (20, 0)), (7, (7, 0))]
)
def test_the_phases_share_the_steps(max_steps, expected):
    built = make_method(
        steps_per_epoch=10, guidance__warmup_epochs=2, train__epochs=6, train__max_steps=max_steps
    )
    warmup, joint = built.phases
    assert (warmup.steps, joint.steps) == expected
    assert learners(built) == [(True, False), (True, True)]
    assert built.num_steps == sum(expected)
    assert built.warmup_steps == expected[0]
    assert built.phase_at(expected[0] - 1) is warmup
    assert built.phase_at(expected[0]) is joint
    # A run that is cut short keeps the schedule of the whole one.
    assert built.optimization.joint_steps == 60


def test_without_warmup_the_first_step_is_joint():
    built = make_method(steps_per_epoch=10, guidance__warmup_epochs=0)
    assert built.phase_at(0).name == "joint"


def test_a_frozen_guidance_does_not_learn_with_the_denoiser():
    built = make_method("v2", steps_per_epoch=10, guidance__warmup_epochs=2, train__epochs=6)
    assert [phase.steps for phase in built.phases] == [20, 60]
    assert learners(built) == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("conditioning", "mmd_weight", "streams", "projections"),
    [("dual", 0.5, 3, 3), ("dual", 0.0, 1, 1), ("fused", 0.5, 3, 1), ("none", 0.5, 1, 1)],
)
def test_without_weight_there_are_no_mmd_streams(conditioning, mmd_weight, streams, projections):
    built = make_method(denoiser__conditioning=conditioning, train__mmd_weight=mmd_weight)
    logits = jnp.zeros((2, 3))
    guidance = Guidance(logits, logits, logits, *[None] * 4)
    assert len(built.priors(guidance)) == streams
    assert built.denoiser is not None
    assert built.denoiser.num_projections == projections


def test_the_compute_type_reaches_both_networks():
    built = make_method(train__dtype="bfloat16")
    assert built.denoiser is not None
    assert built.guidance.dtype == built.denoiser.dtype == jnp.bfloat16


@pytest.mark.parametrize("network", get_args(get_type_hints(config.Guidance)["network"]))
def test_every_guidance_network_is_built(network):
    kinds = {"dcg": DCG, "classifier": PlainClassifier}
    assert type(make_method(guidance__network=network).guidance) is kinds[network]


def test_the_recipes_differ_as_the_method_says():
    paper, public = make_method("v1"), make_method("v1_public")
    assert paper.denoiser is not None and public.denoiser is not None
    assert (paper.denoiser.num_projections, public.denoiser.num_projections) == (3, 1)
    assert (paper.guidance.crop_channels, public.guidance.crop_channels) == ("all", "first")
    assert public.denoiser.encoder_momentum == pytest.approx(0.9**3)
    assert (paper.schedule.beta.dtype, public.schedule.beta.dtype) == (np.float64, np.float32)


def test_the_map_has_a_cell_for_each_pair_of_regions():
    built = make_method("v2", guidance__num_regions=4)
    logits = jnp.zeros((2, 3))
    guidance = Guidance(logits, logits, logits, *[None] * 4)
    assert built.cells == (4, 4)
    assert built.priors(guidance)[0].condition.shape == (2, 4, 4, 3)
    assert make_method("v1", guidance__num_regions=4).cells == ()


def test_deferred_class_weights_have_the_last_fifth_to_themselves():
    def cut_at(max_steps: int) -> Method:
        changed = make_config(
            Path(),
            "classifier",
            guidance__class_weights="deferred",
            guidance__warmup_epochs=1,
            train__epochs=10,
            train__max_steps=max_steps,
        )
        task = Task(class_names=CLASSES)
        return build(changed, task, steps_per_epoch=10, counts=(100, 10, 0))

    built = cut_at(0)
    warmup, plain, last = built.phases
    assert (warmup.steps, plain.steps, last.steps) == (10, 80, 20)
    assert plain.class_weights == ()
    common, rare, none = last.class_weights
    assert common < rare
    assert none == 0
    assert built.in_phase(last).phase.class_weights == last.class_weights
    # A run that is cut is the beginning of the whole one.
    for limit, steps in ((50, (10, 40, 0)), (100, (10, 80, 10))):
        assert tuple(phase.steps for phase in cut_at(limit).phases) == steps


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("v1", {"guidance__backbone": "resnet7"}, "config.guidance.backbone: trunk 'resnet7' is"),
        ("v1", {"guidance__local_trunk": "vit"}, "config.guidance.local_trunk: trunk 'vit' is unk"),
        (
            "v1",
            {"guidance__local_trunk": "tiny_vit", "guidance__region_size": 20},
            "config.guidance.local_trunk=tiny_vit does not fit regions of 20 px; give a multiple "
            "of 16 px",
        ),
        (
            "v1",
            {"guidance__backbone": "tiny_vit", "guidance__region_size": 20},
            "config.guidance.backbone=tiny_vit does not fit regions of 20 px; give a multiple of",
        ),
        (
            "v2",
            {"denoiser__local_encoder": "tiny_vit", "guidance__region_size": 20},
            "config.denoiser.local_encoder=tiny_vit does not fit regions of 20 px",
        ),
        (
            "v1",
            {"guidance__saliency_stride": 16},
            "config.guidance.saliency_stride=16: tiny has features of stride 1, 2 px; choose one",
        ),
        (
            "v1",
            {"denoiser__encoder": "guidance", "denoiser__pretrained": "guidance"},
            "config.denoiser.pretrained=guidance needs a trunk to go into, .*pretrained= .empty",
        ),
        ("v1", {"denoiser__encoder": "vit"}, "config.denoiser.encoder: trunk 'vit' is unknown"),
        ("v2", {"denoiser__local_encoder": "x"}, "config.denoiser.local_encoder: trunk 'x' is unk"),
        (
            "v2",
            {"denoiser__encoder": "efficientsam_s", "data__image_size": 100},
            "config.denoiser.encoder=efficientsam_s does not fit images of 100 px; give a multiple",
        ),
    ],
)
def test_trunks_that_cannot_work_are_refused(recipe, changes, message):
    with pytest.raises(InputError, match=message):
        make_method(recipe, **changes)


def test_stochastic_depth_of_a_trunk_that_has_none_is_refused(monkeypatch):
    plain = dataclasses.replace(trunks.entry("tiny_vit"), options=())
    monkeypatch.setitem(trunks._TRUNKS, "plain", plain)
    built = make_method("classifier", guidance__backbone="plain")
    assert built.guidance.global_trunk.drop_path == 0
    with pytest.raises(InputError, match="config.guidance.drop_path=0.1 is not there for config"):
        make_method("classifier", guidance__backbone="plain", guidance__drop_path=0.1)
    with pytest.raises(InputError, match="is not there for config.guidance.local_trunk=plain"):
        make_method("v1", guidance__local_trunk="plain", guidance__drop_path=0.1)


@pytest.mark.parametrize(
    ("named", "expected"),
    [("", "tiny"), ("tiny_vit", "tiny_vit"), ("shared", None)],
)
def test_the_trunk_of_the_regions(named, expected):
    guidance = make_method(guidance__local_trunk=named).guidance
    assert isinstance(guidance, DCG)
    made = expected and trunks.build(expected, width=8, stem="small")
    assert guidance.local_trunk == made


def test_the_grid_and_the_overlap_of_the_regions_reach_the_guidance():
    guidance = make_method(guidance__saliency_stride=1, guidance__region_overlap=0.25).guidance
    assert isinstance(guidance, DCG)
    assert (guidance.saliency_stride, guidance.region_overlap) == (1, 0.25)


def test_a_classifier_has_neither_regions_nor_their_trunk():
    # What a DCG would be built of is not looked at.
    changes = {"guidance__local_trunk": "tiny_vit", "guidance__region_size": 20}
    assert make_method(guidance__network="classifier", **changes)


@pytest.mark.parametrize(
    "changes", [{"guidance__loss": "focal"}, {"guidance__class_weights": "balanced"}]
)
def test_losses_of_one_class_are_refused_for_several_labels(changes):
    changed = make_config(Path(), **changes)
    with pytest.raises(InputError, match="needs images of one class"):
        build(changed, SEVERAL)


@pytest.mark.parametrize("rederive", [False, True])
@pytest.mark.parametrize("clip", [(-1.0, 1.0), (0.0, 0.5), ()])
def test_what_is_asked_of_ddim_reaches_it(clip, rederive):
    changes = {"sampling__clip": clip} | ({"sampling__rederive_eps": True} if rederive else {})
    if clip == (-1.0, 1.0):  # the recipe's own
        del changes["sampling__clip"]
    if rederive and not clip:
        pytest.skip("there is nothing to derive the noise from again")
    built = make_method("v2", sampling__num_steps=5, **changes)
    noise = np.random.default_rng(0).standard_normal((5, 1, 2, 2, 2, 3)).astype(np.float32)
    mean = np.zeros(noise.shape[2:], np.float32)
    found = built.sampling.run(lambda y, t: 0.9 * y, noise[0], mean, noise)

    alpha_bar = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
    y = noise[0].astype(np.float64)
    for t, t_next in itertools.pairwise((800, 600, 400, 200, 0, -1)):
        ab, ab_next, eps = alpha_bar[t], alpha_bar[t_next], 0.9 * y
        y0 = (y - np.sqrt(1 - ab) * eps) / np.sqrt(ab)
        if clip:
            y0 = np.clip(y0, *clip)
        if rederive:
            eps = (y - np.sqrt(ab) * y0) / np.sqrt(1 - ab)
        y = np.sqrt(ab_next) * y0 + np.sqrt(1 - ab_next) * eps
    np.testing.assert_allclose(found, y0, atol=1e-4)


def test_images_of_several_labels_cannot_be_drawn_by_class():
    changed = make_config(Path(), data__balance=0.5)
    with pytest.raises(InputError, match=r"^config.data.balance=0.5 needs images of one class; gi"):
        build(changed, SEVERAL)


def test_several_labels_cannot_be_balanced():
    changed = make_config(Path(), train__label_weight=1.0, train__label_balance=0.5)
    with pytest.raises(InputError, match=r"config.train.label_balance=0.5 needs images of one"):
        build(changed, SEVERAL)


def test_what_is_asked_of_balance_reaches_the_label_loss():
    """-log softmax(logits + tau log pi) of the true class, docs/plus.md: here 9 to 1 images."""
    changed = make_config(Path(), train__label_weight=1.0, train__label_balance=0.5)
    method = build(changed, Task(class_names=("a", "b")), counts=(9, 1))
    logits = np.array([[0.2, 0.1], [0.2, 0.1]], np.float32)
    adjusted = np.array([0.2, 0.1]) + 0.5 * np.log([0.9, 0.1])
    expected = np.log(np.exp(adjusted).sum()) - adjusted
    found = method.objective.label_loss(logits, np.eye(2, dtype=np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0]), (0.5, [1, 1, 0, 0]), (1.0, [1] * 4)])
def test_the_first_samples_are_the_unconditional_ones(share, expected):
    sampling = make_method(sampling__num_samples=4, sampling__unconditional=share).sampling
    np.testing.assert_array_equal(sampling.is_unconditional, expected)

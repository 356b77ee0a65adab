"""What `benchmark.py --mode=aot` reads from programs and makes of it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from diffmic_jax.nn import trunks
from diffmic_jax.nn.convolution import convolve
from tests.processes import environment
from tests.test_benchmark import SMALLEST

SCRIPTS = Path(__file__).parents[1] / "scripts"
HLO = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,128]{1,0})->f32[]}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0:T(128)}) parameter(0)
  %x = f32[4]{0:T(128)} get-tuple-element(%p), index=1
  %sum = f32[4]{0:T(128)} all-reduce(%x), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %out = (s32[], f32[4]{0:T(128)}) tuple(%i, %sum)
}

%cond (q: (s32[], f32[4])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %q = (s32[], f32[4]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%fused (a.1: bf16[8,128]) -> bf16[128,8] {
  %a.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %turned = bf16[128,8]{1,0:T(8,128)(2,1)} transpose(%a.1), dimensions={1,0}
}

ENTRY %main (a: bf16[8,128], b: f32[128]) -> f32[] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[128]{0:T(128)} parameter(1)
  %fetch = (f32[128]{0:T(128)S(1)}, f32[128]{0:T(128)}, u32[]{:S(2)}) copy-start(%b)
  %near = f32[128]{0:T(128)S(1)} copy-done(%fetch)
  %cut = ((f32[128]{0:T(128)}), f32[32]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:32]}
  %piece = f32[32]{0:T(128)S(1)} slice-done(%cut)
  %back = bf16[128,8]{1,0:T(8,128)(2,1)} fusion(%a), kind=kLoop, calls=%fused
  %both = (f32[64]{0:T(128)S(1)}, f32[64]{0}) all-reduce(%near, %b), \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add
  %begun = (f32[2]{0}, f32[8]{0}) all-gather-start(%cut), replica_groups={{0,1,2,3}}, dimensions={0}
  %all = f32[8]{0} all-gather-done(%begun)
  %few = f32[2]{0} reduce-scatter(%all), replica_groups={{0,1},{2,3}}, to_apply=%add
  %loop = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"6"}}
  %again = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body
  %dynamic-slice_fusion = f32[128]{0} fusion(%table, %i), kind=kLoop, calls=%cut_out
  %table = f32[99,128]{1,0} parameter(2)
}
"""


@pytest.fixture
def script(monkeypatch) -> Any:
    """Function from the name of a module in scripts/ to the module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_collectives_are_read_with_kind_size_chips_and_count(script):
    hlo = script("hlo")
    found = hlo.Program(HLO).collectives()
    expected = [
        hlo.Collective(kind="all-reduce", bytes=512, group=4),
        hlo.Collective(kind="reduce-scatter", bytes=32, group=2),
        hlo.Collective(kind="all-reduce", bytes=16, group=4, count=6),
        hlo.Collective(kind="all-reduce", bytes=16, group=4, count=5),
    ]
    assert [each for each in found if each.kind != "all-gather"] == expected
    (gather,) = [each for each in found if each.kind == "all-gather"]
    assert (gather.group, gather.count) == (4, 1)
    assert hlo.by_kind(found)["all-reduce"] == {"count": 12, "bytes": 512 + 11 * 16}


def test_bytes_are_those_between_the_chip_and_its_memory(script):
    moved, by_operation = script("hlo").Program(HLO).moved_bytes()
    # Half of the all-reduce's result, and one of its operands, are on the chip.
    assert by_operation["copy-start"] == 512
    assert by_operation["slice-start"] == 128
    assert by_operation["fusion"] == 2 * 2048 + 2 * 512 + 4  # and the place of a slice
    assert by_operation["all-reduce"] == 256 + 512 + 11 * 2 * 16
    assert moved == sum(by_operation.values())


def test_transpositions_are_counted_within_fusions_as_well(script):
    assert script("hlo").Program(HLO).layout_changes() == (1, 2 * 2048)


@pytest.mark.parametrize(
    ("shape", "size"),
    [("pred[3,2]", 6), ("bf16[8,128]{1,0:T(8,128)}", 2048), ("(f32[], s8[5], f8e4m3fn[4])", 13)],
)
def test_an_array_has_so_many_bytes(script, shape, size):
    assert script("hlo").array_bytes(shape) == size


def test_a_resnet18_multiplies_as_often_as_published(script):
    module: Any = trunks.build("resnet18")
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), image)
    traced = jax.make_jaxpr(lambda v, x: module.apply(v, x, False))(variables, image)
    found = script("hlo").matrix_flops(traced)
    # 1.81 billion multiplications an image (torchvision), of which its head has 0.5 million.
    assert found == {"float32": pytest.approx(2 * 2 * 1.8136e9, rel=1e-3)}


@pytest.mark.parametrize("side", [14, 56])
def test_a_convolution_and_its_gradients_are_three_of_it(script, side):
    count = script("hlo").matrix_flops
    x, kernel = jnp.zeros((1, side, side, 16)), jnp.zeros((3, 3, 16, 16))

    def loss(x: Any, kernel: Any) -> Any:
        return convolve(x, kernel, 1).sum()

    one = count(jax.make_jaxpr(loss)(x, kernel))["float32"]
    assert one == 2 * 9 * 16 * 16 * side**2
    assert count(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel)) == {"float32": 3 * one}


def test_operations_in_loops_branches_and_gradients(script):
    count = script("hlo").matrix_flops
    a, b = jnp.ones((4, 8)), jnp.ones((8, 16), jnp.bfloat16)

    def looped(a: Any) -> Any:
        return jax.lax.scan(lambda c, _: (c @ jnp.ones((8, 8)), None), a, None, length=5)[0]

    assert count(jax.make_jaxpr(looped)(a)) == {"float32": 5 * 2 * 4 * 8 * 8}
    assert count(jax.make_jaxpr(lambda b: b @ b.T)(b)) == {"bfloat16": 2 * 8 * 16 * 8}

    def branched(a: Any) -> Any:
        return jax.lax.cond(a.sum() > 0, lambda x: x @ x.T, lambda x: x @ x.T @ x @ x.T, a)

    assert count(jax.make_jaxpr(branched)(a)) == {"float32": 3 * 2 * 4 * 8 * 4}

    def convolved(x: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)

    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    forward = 2 * (2 * 4 * 4) * (3 * 3 * 3 * 5)
    assert count(jax.make_jaxpr(convolved)(x, kernel)) == {"float32": forward}
    gradient = jax.grad(lambda *args: convolved(*args).sum(), argnums=(0, 1))
    # Its value is not computed with it.
    assert count(jax.make_jaxpr(gradient)(x, kernel)) == {"float32": pytest.approx(3 * forward)}


def test_a_roofline_by_hand(script):
    hlo, lines = script("hlo"), script("roofline")
    where = lines.slice_of("v5e:2x2")
    # One of two links along each of two axes leads to another chip.
    assert where.link_bandwidth == 100e9 and where.hops == 2
    sums = hlo.Collective(kind="all-reduce", bytes=1e8, group=4, count=3)
    found = lines.roofline(where, {"bfloat16": 197e9}, 819e6, [sums])
    expected = {"compute": 1e-3, "memory": 1e-3, "link": 3 * 2 * 0.75e-3, "latency": 3 * 4e-6}
    assert {name: found[f"{name}_seconds"] for name in expected} == pytest.approx(expected)
    assert found["bound_by"] == "link"
    assert found["seconds"] == pytest.approx(1e-3 + 4.5e-3 + 12e-6)
    assert found["best_seconds"] == pytest.approx(4.5e-3 + 12e-6)
    pod = lines.slice_of("v5e:16x16")
    assert pod.link_bandwidth == 200e9 and pod.hops == 16
    assert lines.slice_of("v5p:2x2x1").link_bandwidth == pytest.approx(200e9)
    card = lines.slice_of("h100:8")
    found = lines.roofline(card, {"float32": 989e9}, 0, [sums])
    assert found["compute_seconds"] == pytest.approx(2e-3)
    assert found["link_seconds"] == pytest.approx(3 * 2 * 0.75e8 / 450e9)
    with pytest.raises(ValueError, match="give one of v5e, v5p, v6e, h100"):
        lines.slice_of("v9:2x2")


def test_the_largest_batch_is_found_in_few_steps(script):
    next_size = script("aot").next_size
    tried: dict[int, dict[str, Any]] = {}
    size = 8
    while size and size not in tried:
        total = 2e9 + 1e8 * size  # up to 140 images fit
        tried[size] = {"fits": total <= 16e9, "memory_bytes": {"total": total}}
        size = next_size(tried, 16e9)
    assert list(tried) == [8, 16, 128, 256]
    assert next_size({8: {"fits": False}}, 16e9) == 4
    assert next_size({1: {"fits": False}}, 16e9) == 0
    # A compiler may need less for more: nothing follows from that for the next.
    fell = {8: 5.4e9, 16: 4.7e9}
    tried = {size: {"fits": True, "memory_bytes": {"total": fell[size]}} for size in fell}
    assert next_size(tried, 16e9) == 32


FOUR_DEVICES = """
import json, sys
from pathlib import Path

import jax

sys.path.insert(0, sys.argv[1])
import aot, benchmark
from tests import tiny_trunks

assert jax.device_count() == 4
aot.devices_of = lambda topology: jax.devices()
sys.argv = ["benchmark.py", "--mode=aot", *sys.argv[2:]]
benchmark.main()
benchmark.main()
"""


def test_the_steps_of_a_recipe_on_four_devices(tmp_path):
    flags = [flag for flag in SMALLEST if "encoder" not in flag] + ["--recipe=classifier"]
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES, SCRIPTS, *flags],
        env=environment() | {"JAX_NUM_CPU_DEVICES": "4", "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    train, predict, *again = map(json.loads, done.stdout.splitlines())
    assert again == [train, predict]  # from the cache, with the seconds of the first time
    assert (train["program"], predict["program"]) == ("classifier", "predict")
    assert train["fits"] and train["batch_per_chip"] == 2
    assert train["collectives"]["all-reduce"]["count"] > 0
    assert train["flops"]["float32"] > 2 * predict["flops"]["float32"] > 0
    assert train["memory_bytes"]["total"] > train["memory_bytes"]["argument"]
    assert train["images_per_second"] <= train["best_images_per_second"]


def test_an_unknown_topology_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--mode=aot", "--topology=v9:2x2"])
    with pytest.raises(SystemExit) as error:
        script("benchmark").main()
    assert str(error.value).startswith("benchmark.py: --topology=v9:2x2: ")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_the_compiler_of_a_tpu(script, monkeypatch, capsys):
    flags = ["--mode=aot", "--recipe=v1", "--programs=predict", "--effort=-1", *SMALLEST]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    script("benchmark").main()
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["topology"] == "v5e:2x2"
    assert found["collectives"].keys() == {"all-gather"}
